"""The token endpoint alone: what a code exchange costs with each kind of signing key, and how much of it is signing.

    python -m bench.signing [--rounds 5] [--seconds 0.5]

In this process and without a network: Kanidm's answer is a recorded one, everything else is the real endpoint. Medians over the
rounds, in which the kinds take turns; CPU time, so that a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kiwi_id.issuer import token
from kiwi_id.issuer.chosen import ChosenSecrets
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.encoding import PREFIX
from kiwi_id.issuer.http import Request
from kiwi_id.issuer.keys import Key, KeySet, KeyState, make_key
from kiwi_id.issuer.replay import Memory
from kiwi_id.kanidm.oauth2 import OAuth2
from kiwi_id.proxy.caller import Answer

ISSUER = "https://id.example.com"
KINDS: dict[str, Callable[[], Any]] = {
    "RS256, 2048 bits": lambda: rsa.generate_private_key(65537, 2048),
    "RS256, 3072 bits": lambda: rsa.generate_private_key(65537, 3072),
    "RS256, 4096 bits": lambda: rsa.generate_private_key(65537, 4096),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def _unsigned(claims: dict[str, Any]) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJFUzI1NiJ9.{payload}.{'s' * 86}"


def kanidm_answer() -> bytes:
    """Return an answer of Kanidm's token endpoint as 1.5.0 gives it to the demo's alice."""
    uuid = "56b6dfb6-d185-4938-a73c-a10e590e40d2"
    common = {"iss": f"{ISSUER}/oauth2/openid/app", "sub": uuid, "aud": "app", "exp": 2000000000, "nbf": 1, "iat": 1}
    groups = ["idm_all_accounts@id.example.com", "idm_all_persons@id.example.com", "kiwi_users@id.example.com", uuid, uuid, uuid]
    claims: dict[str, Any] = {"nonce": "bench", "azp": "app", "name": "Alice Demo", "preferred_username": "alice@id.example.com"}
    claims |= {"scopes": ["email", "groups", "openid", "profile"], "email": "alice@example.com", "email_verified": True}
    access = {**common, "client_id": "app", "scope": "email groups openid profile", "session_id": uuid, "parent_session_id": uuid}
    answer: dict[str, Any] = {"access_token": _unsigned({**access, "nonce": "bench"}), "token_type": "Bearer", "expires_in": 900}
    answer |= {"refresh_token": "gAAAA" + "r" * 400, "scope": "email groups openid profile"}
    return json.dumps({**answer, "id_token": _unsigned({**common, **claims, "groups": groups})}).encode()


class Endpoint:
    """The token endpoint with one signing key."""

    def __init__(self, private: Any) -> None:
        answer = Answer(200, [], kanidm_answer())

        async def call(*_: Any) -> Answer:
            return answer

        async def no_secret(_: str) -> None:
            return None

        self.key: Key = make_key(private, KeyState.CURRENT, datetime.now(UTC), Path("key.pem"))
        self.ctx = Context(ISSUER, "id.example.com", "name", KeySet(self.key, []), {}, OAuth2(call), ChosenSecrets(no_secret))
        self.memory = Memory()
        self.response: dict[str, Any] = {}

    def request(self) -> Request:
        """Return a request with a new code."""
        box = {"k": "gAAAA" + "c" * 300, "v": "v" * 43, "c": "app", "r": "https://app.example.com/cb", "h": "", "a": 1, "s": "sid"}
        code = PREFIX + self.ctx.codes.seal(box, lifetime=60)
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": box["r"]}
        headers = [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"authorization", b"Basic " + base64.b64encode(b"app:secret")),
        ]
        return Request("POST", "/oauth2/token", b"", headers, urlencode(form).encode(), "127.0.0.1", b"bench")

    async def exchange(self, seconds: float) -> float:
        """Exchange codes for so long; return the CPU time of one, in microseconds."""
        spent, count = 0.0, 0
        while spent < seconds:
            requests = [self.request() for _ in range(20)]
            began = time.process_time()
            for request in requests:
                response = await token.token(self.ctx, request, self.memory)
            spent += time.process_time() - began
            count += len(requests)
            assert response.status == 200, response.body
        self.response = json.loads(response.body)
        return spent / count * 1e6

    def sign(self, seconds: float) -> float:
        """Sign for so long; return the CPU time of one signature, in microseconds."""
        claims = {"sub": "56b6dfb6-d185-4938-a73c-a10e590e40d2", "padding": "p" * 600}
        return _timed(lambda: self.key.sign(claims, "at+jwt"), seconds)

    def verify(self, seconds: float) -> float:
        """Check an access token for so long; return the CPU time of one check, in microseconds."""
        sent = self.response["access_token"]
        return _timed(lambda: self.ctx.keys.verify(sent, "at+jwt", issuer=ISSUER), seconds)


def _timed(action: Callable[[], object], seconds: float) -> float:
    count, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        action()
        count += 1
    return (time.process_time() - began) / count * 1e6


async def run(rounds: int, seconds: float) -> None:
    """Measure all kinds in turn and print a table."""
    endpoints = {name: Endpoint(make()) for name, make in KINDS.items()}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in endpoints}
    for _ in range(rounds):
        for name, endpoint in endpoints.items():
            found[name].append((await endpoint.exchange(seconds), endpoint.sign(seconds / 4), endpoint.verify(seconds / 4)))
    print(f"token endpoint without network and Kanidm, CPU µs, median of {rounds}")
    print(f"{'':18}{'code exchange':>14}{'two signatures':>16}{'share':>7}{'verify':>8}{'access token':>14}{'ID token':>10}")
    for name, endpoint in endpoints.items():
        whole, sign, verify = (statistics.median(column) for column in zip(*found[name], strict=True))
        sizes = f"{len(endpoint.response['access_token']):8} bytes{len(endpoint.response['id_token']):10}"
        print(f"{name:18}{whole:14.0f}{2 * sign:16.0f}{2 * sign / whole:7.0%}{verify:8.0f}{sizes}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    trio.run(run, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
