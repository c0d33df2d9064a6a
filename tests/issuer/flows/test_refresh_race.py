"""Refreshes that wait for one another, when the one that asks Kanidm fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from kiwi_id.instance.keys import generate_pair
from kiwi_id.issuer import keys
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import Request, Response
from kiwi_id.issuer.replay import Memory
from kiwi_id.issuer.token import token
from kiwi_id.kanidm.oauth2 import OAuth2
from kiwi_id.proxy.caller import Answer, Unavailable
from tests.issuer.unit.issuer import nobody_has_chosen


class Kanidm:
    """A kanidmd that takes a second to answer a refresh, and fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        self.asked, self._failures = 0, failures

    async def __call__(self, method: str, target: str, headers: Any, body: bytes = b"") -> Answer:
        """Answer at the token endpoint."""
        assert (method, target) == ("POST", "/oauth2/token")
        self.asked += 1
        await trio.sleep(1)
        if self.asked <= self._failures:
            raise Unavailable("kanidmd is not ready")
        return Answer(200, [], b'{"access_token":"opaque","refresh_token":"next","expires_in":900,"scope":"email"}')


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_who_waits_asks_again(autojump_clock: trio.testing.MockClock, tmp_path: Path, failures: int) -> None:
    """When the first of three refreshes fails for want of Kanidm, the next one asks; nobody is told that the token is bad."""
    generate_pair(tmp_path / "a.pem", tmp_path / "b.pem", kind="es256")
    key_set = keys.load(tmp_path / "a.pem", tmp_path / "b.pem", tmp_path / "none")
    kanidm = Kanidm(failures)
    ctx = Context("https://id.example", "id.example", "name", key_set, {}, OAuth2(kanidm), nobody_has_chosen())
    box = {"c": "app", "r": "inner", "t": "inner", "a": 0, "s": ""}
    sent = PREFIX + ctx.refreshes.seal(box, lifetime=60)
    body = f"grant_type=refresh_token&client_id=app&refresh_token={sent}".encode()
    kind = [(b"content-type", b"application/x-www-form-urlencoded")]
    request = Request("POST", "/oauth2/token", b"", kind, body, "127.0.0.1", b"x")
    memory = Memory()
    answers: list[Response | str] = []

    async def refresh() -> None:
        try:
            answers.append(await token(ctx, request, memory))
        except Unavailable:
            answers.append("try again")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(refresh)
    good = [answer for answer in answers if isinstance(answer, Response)]
    assert answers.count("try again") == failures
    assert {(answer.status, answer.body) for answer in good} == {(200, good[0].body)}
    assert kanidm.asked == failures + 1
