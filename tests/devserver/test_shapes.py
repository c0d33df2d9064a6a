"""The stand-in answers like the real Kanidm: the recorded requests are sent again and the shapes of all answers compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from .recorder import replay
from .servers import Server, version_of
from .shapes import shapes

DATA = Path(__file__).resolve().parent.parent / "data"


def expected(version: str) -> dict[str, Any]:
    """The shapes that were made from the recording of this Kanidm."""
    found: dict[str, Any] = json.loads((DATA / f"shapes-{version}.json").read_text(encoding="utf-8"))
    return found


def assert_same(actual: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Fail with the labels and both shapes of what differs."""
    assert list(actual) == list(wanted)
    differing = {label: (actual[label], wanted[label]) for label in wanted if actual[label] != wanted[label]}
    text = "\n".join(f"{label}:\n  is      {is_}\n  was     {was}" for label, (is_, was) in differing.items())
    assert not differing, text


async def test_stand_in_answers_like_the_recordings_of_1_5_0(server: Server) -> None:
    """All 82 answers of the stand-in have the recorded statuses, headers, cookies, members, forms and redirects."""
    await server.start()
    assert_same(shapes(await replay(server)), expected("1.5.0"))


@pytest.fixture
def version(kanidmd: Path) -> str:
    """The version of the real kanidmd, as one of those that there are recordings of."""
    found = version_of(kanidmd)
    if found != "1.5.0" and not found.startswith("1.10."):
        pytest.skip(f"no recording of Kanidm {found}; there are 1.5.0 and 1.10.5")
    return "1.5.0" if found == "1.5.0" else "1.10.5"


@pytest.mark.kanidm
async def test_real_kanidmd_answers_like_its_recording(kanidmd: Path, version: str, directory: Path) -> None:
    """The shapes files are what the real server does, so the stand-in is held against the truth."""
    server = Server(directory, (str(kanidmd),))
    try:
        await server.start()
        assert_same(shapes(await replay(server)), expected(version))
    finally:
        await server.stop()
