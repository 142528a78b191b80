"""Settings of a run against those that a paper states, for every study."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A setting of a paper that can be asked for in several ways; the first one names it."""

    values: tuple

    def __contains__(self, value) -> bool:
        return _text(value) in map(_text, self.values)


def differing_protocol(config: Mapping, protocol: Mapping, subject: str = "") -> list[str]:
    """A sentence for each setting that is another than the paper's.

    Args:
        config: every flag as resolved; what it does not have, or has as None (a default that the backbone or the data set
            gives), is not checked.
        protocol: the paper's value of each setting, or a `OneOf`.
        subject: what alone has this protocol, as "for SA-AbMILP"; "" where all numbers have it.
    """
    of = f" {subject}" if subject else ""
    wanted = {name: value if isinstance(value, OneOf) else OneOf((value,)) for name, value in protocol.items()}
    return [
        f"Other protocol{of}: {name} is {_text(config[name])}, the paper's {_text(own.values[0])}."
        for name, own in wanted.items()
        if config.get(name) is not None and config[name] not in own
    ]


def _text(value) -> str:
    """A value of the configuration as a reader would write it, whether it comes from JSON or not."""
    return ", ".join(map(str, value)) or "all" if isinstance(value, (list, tuple)) else str(value)
