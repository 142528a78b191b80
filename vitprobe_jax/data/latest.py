"""What was read a moment ago: whoever goes through the tiles of an image asks for the image again and again."""

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any


class Latest:
    """A function whose results are kept as long as some thread's latest call was for them.

    Threads that ask for the same result at the same time wait for the first of them, so nothing is read twice. What is
    kept is at most a result a thread, however many go by and however large they are. A pickled copy starts empty: each
    worker process has its own.

    Args:
        load: of one argument; an error that it raises is not kept.
    """

    def __init__(self, load: Callable[[Any], Any]):
        self._load = load
        self._entries: weakref.WeakValueDictionary[Hashable, _Entry] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        self._held = threading.local()

    def __reduce__(self) -> tuple:
        return Latest, (self._load,)

    def __call__(self, key: Hashable) -> Any:
        """The result of `load(key)`, which is shared: not to be changed."""
        with self._lock:
            entry = self._held.entry = self._entries.setdefault(key, _Entry())
        with entry.lock:
            if not entry.loaded:
                entry.result = self._load(key)
                entry.loaded = True
        return entry.result


class _Entry:
    """A result, or the place for it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.loaded = False
        self.result: Any = None
