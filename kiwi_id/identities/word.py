"""What came of the latest apply by hand, for ``kiwi-id status``: a note in ``runtime_dir``, which goes with the machine's start.

A running Kiwi ID remembers its own applies; it takes no part in one by hand, and need not run for it.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiwi_id.config_keys import Config
from kiwi_id.instance.files import read_file, write_atomic

if TYPE_CHECKING:
    from kiwi_id.identities.service import Applied

_KINDS: dict[str, Any] = {"at": (int, float), "by_hand": bool, "ok": bool, "file": str, "steps": int, "error": str}
_LISTS = ("refused", "left_alone", "held_back")


def leave(config: Config, applied: Applied) -> None:
    """Leave word of an apply by hand; one that cannot be left is no reason to call the apply failed."""
    with suppress(OSError):
        note = {"at": time.time(), "by_hand": True, **applied.as_dict()}
        write_atomic(_note(config), json.dumps(note).encode() + b"\n", 0o600)


def left(config: Config) -> dict[str, Any] | None:
    """Return the latest word, None when there is none that can be read and believed."""
    try:
        found = json.loads(read_file(_note(config)))
    except (OSError, ValueError, RecursionError):
        return None
    good = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in _KINDS.items())
    return found if good and all(_is_list(found.get(name)) for name in _LISTS) else None


def _is_list(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def _note(config: Config) -> Path:
    return config.runtime_dir / "applied.json"
