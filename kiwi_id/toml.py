"""TOML as people write it: the table of a text, and the lines of its keys, which tomllib does not keep."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiwi_id.errors import ConfigError, Problem


def parse(text: str, file: Path) -> dict[str, Any]:
    """Return the table that ``text`` is; ``file`` names it in errors.

    Raises ConfigError with one problem, which has a line where there is one. A key that is there twice is told with both lines.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: integers and nestings beyond Python's own limits
        line = re.search(r"line (\d+)", str(error))
        if str(error).startswith("Cannot") and (twice := _twice(text, int(line[1]) if line else None)):
            name, first, second = twice
            found = f"the same once more: it is on line {first} already"
            raise ConfigError([Problem(f"{file}:{second}", name, found, "each once", "Remove one of the two.")]) from None
        where = f"{file}:{line[1]}" if line else str(file)
        raise ConfigError([Problem(where, "", f"a TOML syntax error: {error}", "TOML", "")]) from None


def line_numbers(text: str) -> dict[str, int]:
    """Map ``key`` and ``table.key`` to the first line of each; an error without a line is half an error."""
    lines: dict[str, int] = {}
    for number, name in _names(text):
        lines.setdefault(name, number)
    return lines


def _names(text: str) -> Iterator[tuple[int, str]]:
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\"'-]+)\s*\]", line):
            name = re.sub("[\"']", "", header[1])
            table = name + "."
            yield number, name
        elif assignment := re.match(r"\s*(?:\"([^\"]+)\"|'([^']+)'|([\w.-]+))\s*=", line):
            yield number, table + (assignment[1] or assignment[2] or assignment[3])


def _twice(text: str, end: int | None) -> tuple[str, int, int] | None:
    """Return the name, and both lines, of what ends on line ``end`` (None: the last) when it was there before, else None."""
    names = [(number, name) for number, name in _names(text) if end is None or number <= end]
    first = line_numbers(text)
    if names and first[names[-1][1]] < names[-1][0]:
        number, name = names[-1]
        return name, first[name], number
    return None
