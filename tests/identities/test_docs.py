"""docs/identities.md says what is so: its example is applied, whole, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

from kiwi_id.identities.fields import FIELDS
from kiwi_id.identities.model import Policy
from kiwi_id.kanidm.rest import Kanidm

from .world import difference, make, state

TEXT = (Path(__file__).parent.parent.parent / "docs" / "identities.md").read_text()


def example() -> str:
    """Return the TOML of the document."""
    [found] = re.findall(r"^```toml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert isinstance(found, str)
    return found


async def test_the_example_is_applied(kanidm: Kanidm) -> None:
    """The complete example is accepted, nothing in it is refused by Kanidm, and nothing is left to do after it."""
    wanted = state(example())
    done = await make(kanidm, wanted)
    assert len(done) == 9
    assert not [one.refused for one in done if one.refused]
    assert (await difference(kanidm, wanted)).steps == ()
    mail = await kanidm.get("oauth2", "mail")
    assert mail is not None
    assert sorted(mail["oauth2_rs_claim_map"]) == [
        'role:managers@id.example.com:;:"reader,writer"',
        'role:staff@id.example.com:;:"reader"',
    ]


def test_every_key_is_there() -> None:
    """The example shows each key that a state file may have."""
    keys = {key for fields in FIELDS.values() for key in fields} | set(Policy.__dataclass_fields__) | {"prune", "join", "values"}
    assert not [key for key in sorted(keys) if not re.search(rf"^(?:.*[{{ ])?{key} = |\.{key}\.", example(), re.MULTILINE)]
