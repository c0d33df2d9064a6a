"""A difference for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kiwi_id.identities.apply import Done
from kiwi_id.identities.diff import Difference, Step

_SIGNS = {"remove": "-", "adopt": "=", "rename": "~", "create": "+", "change": "~"}
_COLOURS = {"remove": "31", "adopt": "36", "rename": "33", "create": "32", "change": "33"}
_KINDS = {"person": "person", "group": "group", "service_account": "service account", "client": "client"}


def summary(difference: Difference) -> str:
    """Return the number of each kind of step in one line."""
    counts = [
        (sum(step.action == action for step in difference.steps), words)
        for action, words in (
            ("create", "to create"),
            ("change", "to change"),
            ("rename", "to rename"),
            ("adopt", "to adopt"),
            ("remove", "to remove"),
        )
    ]
    return ", ".join(f"{count} {words}" for count, words in counts if count) or (
        "Kanidm is as the state file says" if difference.whole else "Nothing else to do"
    )


def lines(difference: Difference, *, colour: bool = False) -> Iterator[str]:
    """Yield the plan line by line: each step with what changes, what is not ours, what left the file, and a sum."""
    for step in difference.steps:
        yield _coloured(f"{_SIGNS[step.action]} {title(step)}", _COLOURS[step.action], colour)
        for change in step.changes if step.action in ("create", "change") else ():
            for line in _changed(change.field, change.before, change.after, new=step.action == "create"):
                yield f"    {line}"
    for name, why in difference.foreign.items():
        yield _coloured(f"! {name}", "31", colour) + f"  left alone: {why.reason}. {why.fix}"
    for one in difference.held:
        yield f"! {_KINDS[one.kind]} {one.name}  {one.field}: held back: {one.reason}"
    for kind, name in difference.left:
        yield f"  {_KINDS[kind]} {name}  left the file and stays; 'prune = true' or --prune would remove it"
    told = difference.steps or difference.left or not difference.whole
    yield ("\n" if told else "") + f"{summary(difference)}."


def title(step: Step) -> str:
    """Return a step in a few words."""
    name = f"{step.current} → {step.name}" if step.action == "rename" else step.name
    note = {"adopt": "  (adopted: Kiwi ID keeps it from now on)", "remove": "  (removed)"}.get(step.action, "")
    return f"{_KINDS[step.kind]} {name}{note}"


def done_line(done: Done, *, colour: bool = False) -> str:
    """Return one carried-out step, with Kanidm's reasons when it refused something."""
    if not done.refused:
        return _coloured(f"{_SIGNS[done.step.action]} {title(done.step)}", _COLOURS[done.step.action], colour)
    return "\n".join([_coloured(f"! {title(done.step)}: refused", "31", colour), *(f"    {why}" for why in done.refused)])


def as_dict(difference: Difference) -> dict[str, Any]:
    """Return a difference as a JSON-ready mapping."""
    steps = [
        {
            "action": step.action,
            "kind": step.kind,
            "name": step.name,
            **({"current": step.current} if step.current not in ("", step.name) else {}),
            "changes": [{"field": one.field, "before": plain(one.before), "after": plain(one.after)} for one in step.changes],
        }
        for step in difference.steps
    ]
    return {
        "changes": bool(difference.steps),
        "steps": steps,
        "not_ours": [{"name": name, "reason": why.reason, "fix": why.fix} for name, why in difference.foreign.items()],
        "held_back": [{"kind": one.kind, "name": one.name, "field": one.field, "reason": one.reason} for one in difference.held],
        "left_the_file": [{"kind": kind, "name": name} for kind, name in difference.left],
    }


def plain(value: Any) -> Any:
    """Return a value of the model as JSON has it."""
    match value:
        case frozenset():
            return sorted(value)
        case tuple():
            return list(value)
        case datetime():
            return value.isoformat()
        case Path():
            return str(value)
        case Mapping():
            return {key: plain(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(one) for key, one in asdict(value).items() if one is not None}
    return value


def _changed(field: str, before: Any, after: Any, *, new: bool) -> Iterator[str]:
    """Yield one line for each inner key that differs, with both values whole: cut, two long ones may look alike."""
    if before == after:
        return
    inner_before, inner_after = _inner(before), _inner(after)
    if isinstance(after, frozenset) and isinstance(before, frozenset) and not new:
        parts = [f"+{name}" for name in sorted(after - before)] + [f"-{name}" for name in sorted(before - after)]
        yield f"{field}: {' '.join(parts)}"
    elif not (inner_before or inner_after):
        yield f"{field}: {_value(after)}" if new else f"{field}: {_value(before)} → {_value(after)}"
    else:
        for key in [*inner_before, *(key for key in inner_after if key not in inner_before)]:
            missing: Any = frozenset() if isinstance(inner_before.get(key, inner_after.get(key)), frozenset) else None
            yield from _changed(f"{field}.{key}", inner_before.get(key, missing), inner_after.get(key, missing), new=new)


def _inner(value: Any) -> Mapping[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: found for one in fields(value) if (found := getattr(value, one.name)) not in (None, "")}
    return value if isinstance(value, Mapping) else {}


def _value(value: Any) -> str:
    if value in ("", None) or value == frozenset():
        return "none"
    return json.dumps(plain(value), ensure_ascii=False)


def _coloured(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
