"""What of a value of Kanidm's a state file may have: an export must be a file that Kiwi ID reads, whatever is in Kanidm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kiwi_id.identities.fields import Field
from kiwi_id.values import Refused


@dataclass(slots=True)
class Sound:
    """``value`` as TOML has it, None when nothing is left of it; ``left_out``: what is not in it, each with the reason."""

    value: Any
    left_out: list[tuple[Any, Refused]] = field(default_factory=list)


def sound(row: Field, value: Any) -> Sound:
    """Return what ``row`` takes of a value: of arrays and tables each element that it takes by itself."""
    if _refused(row, value) is None:
        return Sound(value)
    found = Sound(None)
    for part in _parts(value):
        if refused := _refused(row, part):
            found.left_out.append((part, refused))
        elif found.value is None:
            found.value = part
        else:
            found.value = found.value + part if isinstance(part, list) else found.value | part
    return found


def _parts(value: Any) -> Iterator[Any]:
    match value:
        case list():
            yield from ([one] for one in value)
        case dict():
            yield from ({key: one} for key, one in value.items())
        case _:
            yield value


def _refused(row: Field, value: Any) -> Refused | None:
    try:
        row.parse(value)
    except Refused as refused:
        return refused
    return None
