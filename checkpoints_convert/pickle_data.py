"""Reads a pickle as data. There is no unpickling: the opcodes are interpreted on plain Python containers.

Nothing in a pickle can run here, because nothing in it is ever imported or called. A name (`module.attribute`) becomes
a `Name`, a token without behaviour, and only if the caller allows it; calling a token looks it up in the caller's table
of constructors, or gives a `Skipped`. A name that is not allowed ends the reading, and so does a skipped object that holds
tensors: it may be the model itself.
"""

import dataclasses
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Set
from types import UnionType
from typing import Any


class PickleError(Exception):
    """A pickle that is damaged, or that asks for what it may not have; the message says which."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the pickle mentions, never imported."""

    dotted: str


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Stands for an object that was left unread; its arguments, state and items are dropped."""

    kind: str


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_SCALARS = (str, bytes, int, float, complex, type(None))


def read_pickle(
    data: bytes,
    *,
    build: Mapping[str, Callable[..., Any]],
    tokens: Set[str],
    skip: Callable[[str], bool],
    tensors: type | UnionType,
    persistent: Callable[[Any], Any],
) -> Any:
    """The one object that a pickle of protocol 2 to 5 holds.

    Args:
        data: the pickle.
        build: by dotted name, what a call of that name gives, beside Python's own containers.
        tokens: names that may stand as values; they come out as `Name`.
        skip: whether a name is of a class or function whose results come out as `Skipped`.
        tensors: types of values that no skipped object may hold.
        persistent: what a persistent id gives.

    Raises:
        PickleError: damaged, or it holds a name that is listed nowhere or an opcode that no checkpoint needs.
    """
    build = {**_PYTHON, **build}
    machine = _Machine(build, build.keys() | _PYTHON_TOKENS | tokens, skip, tensors, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (result,) = machine.stack
                return result
            machine.step(opcode.name, argument)
    # Damaged bytes take the stack, the memo or an argument out of step; all of these come from our own data handling.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleError(f"damaged pickle ({type(error).__name__}: {error})") from error
    raise PickleError("damaged pickle (it does not end)")


class _Machine:
    """The pickle machine's stack and memo."""

    def __init__(self, build, names, skip, tensors, persistent):
        self.build, self.names, self.skip, self.tensors, self.persistent = build, names, skip, tensors, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, op: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        if op in ("PROTO", "FRAME"):
            pass
        elif op in _LITERALS:
            push(argument)
        elif op in _CONSTANTS:
            push(_CONSTANTS[op])
        elif op in _EMPTY:
            push(_EMPTY[op]())
        elif op == "MARK":
            push(_MARK)
        elif op == "POP":
            pop()
        elif op == "POP_MARK":
            self.pop_mark()
        elif op == "DUP":
            push(self.stack[-1])
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(reversed([pop() for _ in range(int(op[-1]))])))
        elif op == "TUPLE":
            push(tuple(self.pop_mark()))
        elif op == "LIST":
            push(self.pop_mark())
        elif op == "DICT":
            items = self.pop_mark()
            push({})
            _fill(self.stack[-1], dict, items)
        elif op == "FROZENSET":
            push(frozenset(map(_flat_key, self.pop_mark())))
        elif op in ("APPEND", "APPENDS"):
            items = self.pop_mark() if op == "APPENDS" else [pop()]
            self.leave_unread(self.stack[-1], items)
            _fill(self.stack[-1], list, items)
        elif op in ("SETITEM", "SETITEMS"):
            items = self.pop_mark() if op == "SETITEMS" else [pop(), pop()][::-1]
            self.leave_unread(self.stack[-1], items)
            _fill(self.stack[-1], dict, items)
        elif op == "ADDITEMS":
            items = self.pop_mark()
            _fill(self.stack[-1], set, items)
        elif op == "GLOBAL":
            push(self.name(*argument.split(" ", 1)))
        elif op == "STACK_GLOBAL":
            attribute, module = pop(), pop()
            push(self.name(module, attribute))
        elif op == "NEWOBJ_EX":
            _, arguments, name = pop(), pop(), pop()
            push(self.call(name, arguments))
        elif op in ("REDUCE", "NEWOBJ"):
            arguments, name = pop(), pop()
            push(self.call(name, arguments))
        elif op == "BUILD":
            state = (
                pop()
            )  # An object's state: none of ours has any. An OrderedDict's is the module versions of a state_dict.
            self.leave_unread(self.stack[-1], state)
            if not isinstance(self.stack[-1], (Skipped, OrderedDict)):
                raise PickleError(f"refused: it sets the state of a {type(self.stack[-1]).__name__}; nothing was run")
        elif op == "BINPERSID":
            push(self.persistent(pop()))
        else:
            raise PickleError(f"refused: it uses the opcode {op}, which no checkpoint needs; nothing was run")

    def pop_mark(self) -> list[Any]:
        """Everything above the topmost mark, which goes too."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def leave_unread(self, target: Any, parts: Any) -> None:
        """Refuses a skipped object whose arguments, state or items hold tensors."""
        if not isinstance(target, Skipped):
            return
        waiting, seen = [parts], set()
        while waiting:
            part = waiting.pop()
            if isinstance(part, self.tensors):
                raise PickleError(f"refused: tensors inside a {target.kind[:80]}, which is not read; nothing was run")
            if isinstance(part, Mapping | list | tuple | set | frozenset) and id(part) not in seen:
                seen.add(id(part))
                waiting.extend(part.values() if isinstance(part, Mapping) else part)

    def name(self, module: Any, attribute: Any) -> Name:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("a name that is no text")
        dotted = f"{module}.{attribute}"
        if dotted not in self.names and not self.skip(dotted):
            raise PickleError(
                f"refused: it names {dotted[:80]!r}, which no checkpoint of weights needs; nothing was run"
            )
        return Name(dotted)

    def call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise PickleError(f"refused: it calls a {type(name).__name__}; nothing was run")
        if name.dotted not in self.build and self.skip(name.dotted):
            skipped = Skipped(name.dotted)
            if name.dotted.endswith(".getattr") and not (arguments and isinstance(arguments[0], Name | Skipped)):
                raise PickleError(f"refused: it calls {name.dotted}; nothing was run")
            self.leave_unread(skipped, arguments)
            return skipped
        if name.dotted not in self.build:
            raise PickleError(f"refused: it calls {name.dotted}; nothing was run")
        return self.build[name.dotted](*arguments)


def _flat_key(key: Any) -> Any:
    # Hashing a tuple nested a million deep would end the process.
    if isinstance(key, _SCALARS) or (isinstance(key, tuple) and all(isinstance(part, _SCALARS) for part in key)):
        return key
    raise TypeError(f"a {type(key).__name__} as a key")


def _fill(target: Any, kind: type, items: list[Any]) -> None:
    """Adds items to a container of that kind; a skipped object's are dropped."""
    if isinstance(target, Skipped):
        return
    if not isinstance(target, kind):
        raise TypeError(f"a {type(target).__name__} where a {kind.__name__} is due")
    if kind is dict:
        target.update((_flat_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))
    elif kind is set:
        target.update(map(_flat_key, items))
    else:
        target.extend(items)


def _encode(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise ValueError("bytes in an unknown encoding")
    return text.encode("latin1")


def _from_items(kind: type) -> Callable[..., Any]:
    return lambda items=(): kind(map(_flat_key, items))


# How protocol 2 writes Python's own containers; it calls the module of the built-ins by its old name.
_PYTHON: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: OrderedDict(),
    "collections.defaultdict": lambda factory=None: {},
    "collections.Counter": lambda counts=None: {**(counts or {})},
    "_codecs.encode": _encode,
    **{f"{module}.bytes": lambda: b"" for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _from_items(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _from_items(frozenset) for module in ("builtins", "__builtin__")},
    **{f"{module}.complex": complex for module in ("builtins", "__builtin__")},
}
# The factories of a defaultdict, and types that settings mention.
_PYTHON_TOKENS = frozenset(
    f"{module}.{kind}"
    for module in ("builtins", "__builtin__")
    for kind in ("dict", "list", "tuple", "int", "float", "str", "bool", "unicode", "long")
)
