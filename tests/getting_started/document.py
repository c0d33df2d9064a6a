"""Reading docs/getting-started.md: what in it is a command, a file, an expected output.

A reader of the document sees the same:

- a block ``sh`` is run, whole, by ``bash -euo pipefail``; ``sh exits 2`` has to end with 2;
- a block ``text`` is what the step before it has to print, where ``…`` stands for anything;
- any other block begins with a comment that is an absolute path, and is the file of that path;
- ``<!-- here: WORDS -->`` is what a person does in a browser, and the test in a person's place.

``not here: REASON`` after the language takes a block out of this. Nothing else may be fenced.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "getting-started.md"
_PIECE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$|^<!-- here: (?P<here>.*?) -->$", re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"(?:#|--) (/\S+)\n")


@dataclass(frozen=True, slots=True)
class Commands:
    """What is run, and the exit status that it has to have."""

    text: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """What is written to ``path``."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """What the step before has to print."""

    text: str

    def fits(self, output: str) -> bool:
        """Tell whether ``output`` is that; ``…`` in it stands for anything."""
        pattern = ".*".join(re.escape(part) for part in self.text.strip().split("…"))
        return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Person:
    """What somebody does in a browser, in the document's words."""

    words: str


Piece = Commands | File | Output | Person


def pieces(text: str) -> list[Piece]:
    """Return what a document has to be carried out, in its order. Raises ValueError for a block that is nothing of the above."""
    found: list[Piece] = []
    for match in _PIECE.finditer(text):
        if match["here"]:
            found.append(Person(match["here"]))
            continue
        language, _, more = match["info"].partition(" ")
        if more.startswith("not here: "):
            continue
        if language == "sh":
            status = re.fullmatch(r"|exits (\d+)", more)
            if status is None:
                raise ValueError(f"what is 'sh {more}'?")
            found.append(Commands(match["text"], int(status[1] or 0)))
        elif language == "text":
            found.append(Output(match["text"]))
        elif path := _PATH.match(match["text"]):
            found.append(File(path[1], match["text"]))
        else:
            raise ValueError(f"a block that is neither run nor written anywhere:\n{match['text']}")
    return found
