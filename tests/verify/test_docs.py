"""docs/verify.md: its examples run, and the tests that it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from kiwi_id import verify
from tests.verify.craft import ED, Signer, real_now
from tests.verify.test_keys import jwk, jwks
from tests.verify.test_remote import Server

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/verify.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_first_example(tmp_path: Path) -> None:
    """The first example, with its path changed alone, tells who it is, and refuses a forged token."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(jwk(ED)))
    space: dict[str, Any] = {}
    exec(EXAMPLES[0].replace("/etc/kiwi/jwks.json", str(file)), space)  # noqa: S102 - our own documentation
    times = {"iat": real_now(), "exp": real_now() + 900}
    told = space["who_is_it"](ED.token(**times))
    assert told.startswith("Alice Demo, in ['kiwi_users', 'mail_users'], until ")
    assert space["who_is_it"](Signer("EdDSA").token(**times)) == "401: the token's signature is not the issuer's"


def test_the_example_of_a_url() -> None:
    """The second example, with its URL changed alone, fetches the keys and checks a token."""
    server = Server()
    try:
        server.body = jwks(jwk(ED))
        space: dict[str, Any] = {}
        exec(EXAMPLES[1].replace("https://id.example.com/oauth2/keys", server.url), space)  # noqa: S102
        space["keys"].close()
        assert space["verifier"].verify(ED.token(iat=real_now(), exp=real_now() + 900)).subject
    finally:
        server.close()
    assert len(EXAMPLES) == 2


def test_every_test_named_is_there() -> None:
    """Each proof in the table of refusals is a test of that file."""
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((ROOT / "tests/verify" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_every_error_and_field_is_told() -> None:
    """The page names each error, each field of Claims and each argument, and no error that is not there."""
    told = set(re.findall(r"[├└]── (\w+)", TEXT))
    assert told == {kind.__name__ for kind in verify.TokenError.__subclasses__()}
    for name in (*verify.Claims.__dataclass_fields__, "keys", "issuer", "audience", "token_type", "leeway", "cache_size"):
        assert f"`{name}`" in TEXT, name
