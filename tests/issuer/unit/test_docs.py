"""docs/oidc.md names tests as its proof: each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent


def test_every_test_that_the_table_names_exists() -> None:
    """A renamed test must not leave a claim without its proof."""
    text = (ROOT / "docs/oidc.md").read_text()
    named = set(re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", text))
    assert len(named) > 80
    missing = [
        f"{file}::{test}"
        for file, test in sorted(named)
        if not re.search(rf"^(async )?def {test}\(", (ROOT / "tests/issuer" / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_kiwi_id_command_of_the_document_exists() -> None:
    """The commands shown are those of the command line."""
    from kiwi_id.cli.keys import _ACTIONS  # noqa: PLC0415

    used = set(re.findall(r"kiwi-id keys (\w+)", (ROOT / "docs/oidc.md").read_text()))
    assert used == {"generate", "rotate", "list", "retire"} == _ACTIONS.keys()
