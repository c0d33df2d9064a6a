"""Tokens of a running Kiwi ID with each kind of key, and bad ones: a good token with one thing changed, signed with its own key."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kiwi_id.instance import layout
from kiwi_id.verify.keys import describe
from tests.issuer.flows.world import ALICE, World
from tests.verify.craft import Signer, b64, real_now, unb64

AUDIENCE = "kiwi-demo"
ALGORITHMS = ("RS256", "ES256", "EdDSA")
RENEWED_SECONDS = 60


@dataclass
class Issued:
    """What a Kiwi ID with a key of the algorithm ``alg`` gave one user at one login, and its key."""

    alg: str
    issuer: str
    pem: Path
    access: str
    id_token: str
    logout: str
    jwk: dict[str, Any]
    signer: Signer
    stranger: Signer
    header: dict[str, Any] = field(init=False)
    claims: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        head, body, _ = self.access.split(".")
        self.header, self.claims = json.loads(unb64(head)), json.loads(unb64(body))

    def signed(self, header: dict[str, Any] | None = None, /, signer: Signer | None = None, **claims: Any) -> str:
        """Return the access token with members changed, ``...`` taking one away, signed by the instance's key or ``signer``."""
        return (signer or self.signer).raw(self.head(**(header or {})), json.dumps(_changed(self.claims, claims)))

    def head(self, **changes: Any) -> str:
        """Return the header of the access token, changed."""
        return json.dumps(_changed(self.header, changes))

    def resigned(self, alg: str, sign: Callable[[bytes], bytes]) -> str:
        """Return the access token with another algorithm, truly signed by it."""
        signed = f"{b64(self.head(alg=alg))}.{self.access.split('.')[1]}"
        return f"{signed}.{b64(sign(signed.encode()))}"


class Issuers:
    """Kiwi IDs over one kanidmd, with a key of each kind; what they gave is renewed after a minute: logout tokens live for two."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._instances = {"RS256": world.instance}
        self._given: dict[str, tuple[float, Issued]] = {}

    def __getitem__(self, alg: str) -> Issued:
        made, issued = self._given.get(alg, (0.0, None))
        if issued is None or time.monotonic() - made > RENEWED_SECONDS:
            issued = trio.run(self._log_in, alg)
            self._given[alg] = (time.monotonic(), issued)
        return issued

    async def _log_in(self, alg: str) -> Issued:
        """Log a user in at the Kiwi ID whose key is of this algorithm, and out again."""
        if alg not in self._instances:
            self._instances[alg] = await self._world.replica(kind="es256" if alg == "ES256" else "eddsa")
        async with self._world.tab(self._instances[alg]) as tab:
            tokens = await tab.tokens(self._world.asked(), ALICE)
            (jwk,) = (await tab.http.get("/oauth2/keys")).json()["keys"]
            sid = json.loads(unb64(tokens["id_token"].split(".")[1]))["sid"]
            await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
            logout = (await self._world.receiver.wait("/demo", 1, sid))[0]
        places = layout.Places.under(self._instances[alg].directory)
        private: Any = load_pem_private_key(places.jwt_private_key.read_bytes(), None)
        signer = Signer(alg, jwk["kid"], private)
        given = (tokens["access_token"], tokens["id_token"], logout)
        return Issued(alg, self._world.issuer, places.jwt_public_key, *given, jwk, signer, Signer(alg))


def _changed(members: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def _hs256(secret: Callable[[Issued], bytes]) -> Callable[[Issued], str]:
    return lambda it: it.resigned("HS256", lambda data: hmac.digest(secret(it), data, hashlib.sha256))


def _unsigned(alg: str, *, signature: bool) -> Callable[[Issued], str]:
    return lambda it: f"{b64(it.head(alg=alg))}.{it.access.split('.')[1]}.{it.access.split('.')[2] if signature else ''}"


def _changed_claims(it: Issued) -> str:
    head, _, signature = it.access.split(".")
    return f"{head}.{b64(json.dumps({**it.claims, 'groups': ['idm_admins']}))}.{signature}"


def _changed_signature(it: Issued) -> str:
    head, body, signature = it.access.split(".")
    return f"{head}.{body}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def _embedded(kid: Any) -> Callable[[Issued], str]:
    """Return a token by a stranger who brings his key along."""
    return lambda it: it.signed({"jwk": {**describe(it.stranger.public, "")[1], "alg": it.alg}, "kid": kid}, signer=it.stranger)


def _pss(it: Issued) -> str:
    private = it.signer.private
    assert isinstance(private, rsa.RSAPrivateKey)
    return it.resigned("PS256", lambda data: private.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()))


def _rs512(it: Issued) -> str:
    private = it.signer.private
    assert isinstance(private, rsa.RSAPrivateKey)
    return it.resigned("RS512", lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA512()))


# What hangs on keys and signatures: tried with each kind of key, from the PEM file and from the key set.
FORGED: dict[str, Callable[[Issued], str]] = {
    "no algorithm and no signature": _unsigned("none", signature=False),
    "no algorithm, with the signature": _unsigned("none", signature=True),
    "no algorithm in other letters": _unsigned("nOnE", signature=False),
    "signature left out": lambda it: it.access.rpartition(".")[0] + ".",
    "HS256 with the PEM file as the secret": _hs256(lambda it: it.pem.read_bytes()),
    "HS256 with the PEM file as the secret, stripped": _hs256(lambda it: it.pem.read_bytes().strip()),
    "by another key": lambda it: it.signed(signer=it.stranger),
    "by another key that calls itself so": lambda it: it.signed({"kid": "another"}, signer=it.stranger),
    "an embedded key": _embedded(...),
    "an embedded key with our key's name": lambda it: _embedded(it.signer.kid)(it),
    "claims changed": _changed_claims,
    "signature changed": _changed_signature,
    "another kind's algorithm": lambda it: it.signed({"alg": "ES256" if it.alg != "ES256" else "RS256"}),
}

# By the right key, with an algorithm that is not the key's.
OF_RSA: dict[str, Callable[[Issued], str]] = {"PS256": _pss, "RS512": _rs512}

# Signed by the issuer's key: what a service must refuse all the same.
WRONG: dict[str, Callable[[Issued], str]] = {
    "an ID token": lambda it: it.id_token,
    "a logout token": lambda it: it.logout,
    "typ of an ID token": lambda it: it.signed({"typ": "JWT"}),
    "typ of a logout token": lambda it: it.signed({"typ": "logout+jwt"}),
    "no typ": lambda it: it.signed({"typ": ...}),
    "an extension that must be understood": lambda it: it.signed({"crit": ["x-new"], "x-new": 1}),
    "for another service": lambda it: it.signed(aud="another"),
    "for a service whose name begins alike": lambda it: it.signed(aud=f"{AUDIENCE}-2"),
    "for several others": lambda it: it.signed(aud=["another", f"{AUDIENCE}-2"]),
    "for nobody": lambda it: it.signed(aud=...),
    "of another issuer": lambda it: it.signed(iss="https://other.example.com"),
    "of an issuer with a slash more": lambda it: it.signed(iss=f"{it.issuer}/"),
    "of two issuers": lambda it: it.signed(iss=[it.issuer, "https://other.example.com"]),
    "of no issuer": lambda it: it.signed(iss=...),
    "expired for 30 seconds": lambda it: it.signed(iat=real_now() - 900, exp=real_now() - 30),
    "without an end": lambda it: it.signed(exp=...),
    "an end that is no number": lambda it: it.signed(exp="never"),
    "not valid yet": lambda it: it.signed(nbf=real_now() + 300),
    "issued in five minutes": lambda it: it.signed(iat=real_now() + 300, exp=real_now() + 900),
    "issued at no time": lambda it: it.signed(iat=...),
    "of no subject": lambda it: it.signed(sub=...),
    "of an empty subject": lambda it: it.signed(sub=""),
    "without a name": lambda it: it.signed(jti=...),
    "of an empty name": lambda it: it.signed(jti=""),
    "of no client": lambda it: it.signed(client_id=...),
    "of an empty client": lambda it: it.signed(client_id=""),
    "of a client that is no text": lambda it: it.signed(client_id=["kiwi-demo"]),
    "nothing": lambda _: "",
    "no token at all": lambda _: "secret",
    "three parts of nothing": lambda _: "!!!.???.***",
    "four parts": lambda it: f"{it.access}.AAAA",
}
