"""What checking a token costs a service: the first time, again, in memory, and to import.

    python -m bench.verify [--rounds 40]

In one process; the least of the rounds, in which all contenders take turns, so that a busy machine disturbs all alike. "bare" is
the call of ``verify()`` of ``cryptography`` by itself, which the target is about; "token" is that with what leads to it: splitting
the token and decoding its signature. "first" is a check with the memory switched off; "read" is that with subject and groups read
from the claims, which are made only then; "kept" is a first check with the memory on: of two tokens in turn, with one place. Each
token is one of ours, from the token endpoint's code.
"""

from __future__ import annotations

import argparse
import base64
import gc
import itertools
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import jwt
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bench.signing import ISSUER, KINDS, Endpoint
from kiwi_id.verify import Verifier

AUDIENCE = "app"
CALLS = 200
MOST_FIRST, LEAST_AGAIN, MOST_IMPORT = 1.5, 20.0, 60.0
CACHE = 1024


class Contest:
    """One kind of key: a token, and everything that is done with it."""

    def __init__(self, private: Any) -> None:
        endpoint = Endpoint(private)
        trio.run(endpoint.exchange, 0.01)
        self.token: str = endpoint.response["access_token"]
        self.key, self.kid, self.alg = private.public_key(), endpoint.key.kid, endpoint.key.alg
        keys = {self.kid: self.key}
        self._first = Verifier(keys, issuer=ISSUER, audience=AUDIENCE, cache_size=0)
        self._again = Verifier(keys, issuer=ISSUER, audience=AUDIENCE)
        self._kept = Verifier(keys, issuer=ISSUER, audience=AUDIENCE, cache_size=1)
        trio.run(endpoint.exchange, 0.01)
        self._in_turn = itertools.cycle([self.token, endpoint.response["access_token"]])
        signed, _, signature = self.token.rpartition(".")
        self._signed, self._signature = signed.encode(), base64.urlsafe_b64decode(signature + "==")
        self._call = self._verify_call(self._signature)
        self.contenders: dict[str, Callable[[], Any]] = {
            "bare": self._call,
            "token": self._from_token,
            "first": lambda: self._first.verify(self.token),
            "read": self._read,
            "kept": lambda: self._kept.verify(next(self._in_turn)),
            "again": lambda: self._again.verify(self.token),
            "jwt.decode": self._pyjwt,
        }

    def _verify_call(self, signature: bytes) -> Callable[[], Any]:
        if self.alg == "EdDSA":
            return lambda: self.key.verify(signature, self._signed)
        if self.alg == "ES256":
            der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            return lambda: self.key.verify(der, self._signed, ec.ECDSA(hashes.SHA256()))
        return lambda: self.key.verify(signature, self._signed, padding.PKCS1v15(), hashes.SHA256())

    def _from_token(self) -> None:
        signed, _, encoded = self.token.rpartition(".")
        signature = base64.urlsafe_b64decode(encoded + "==")
        if isinstance(self.key, ed25519.Ed25519PublicKey):
            self.key.verify(signature, signed.encode())
        elif isinstance(self.key, ec.EllipticCurvePublicKey):
            der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            self.key.verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))
        else:
            self.key.verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())

    def _read(self) -> None:
        claims = self._first.verify(self.token)
        _ = claims.subject, claims.groups

    def _pyjwt(self) -> None:
        jwt.decode(self.token, self.key, algorithms=[self.alg], audience=AUDIENCE, issuer=ISSUER)


def _timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        action()
    return (time.perf_counter() - began) / CALLS * 1e6


def speed(rounds: int) -> None:
    """Measure all kinds of keys and print a table."""
    contests = {name: Contest(make()) for name, make in KINDS.items()}
    least: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for name, contest in contests.items():
            for what, action in contest.contenders.items():
                least[name, what] = min(_timed(action), least.get((name, what), float("inf")))
    print(f"one check in µs, least of {rounds} rounds of {CALLS}; to reach: first ≤ {MOST_FIRST} × bare, again ≥ {LEAST_AGAIN:g} ×")
    heads = f"{'':18}{'bytes':>7}{'bare':>8}{'token':>8}{'first':>8}{'/bare':>7}{'read':>8}{'/bare':>7}{'kept':>8}{'/bare':>7}"
    print(f"{heads}{'again':>8}{'jwt.decode':>12}{'/again':>8}")
    for name, contest in contests.items():
        bare, whole, first, read, kept, again, pyjwt = (least[name, what] for what in contest.contenders)
        held = "" if first / bare <= MOST_FIRST and pyjwt / again >= LEAST_AGAIN else "  not reached"
        print(
            f"{name:18}{len(contest.token):7}{bare:8.1f}{whole:8.1f}{first:8.1f}{first / bare:7.2f}{read:8.1f}{read / bare:7.2f}"
            f"{kept:8.1f}{kept / bare:7.2f}{again:8.2f}{pyjwt:12.1f}{pyjwt / again:8.0f}{held}"
        )


def memory() -> None:
    """Fill a cache far beyond its size with tokens of Kiwi ID's, and print what it takes."""
    private = ed25519.Ed25519PrivateKey.generate()
    endpoint = Endpoint(private)
    trio.run(endpoint.exchange, 0.01)
    claims = jwt.decode(endpoint.response["access_token"], options={"verify_signature": False})
    verifier = Verifier({endpoint.key.kid: private.public_key()}, issuer=ISSUER, audience=AUDIENCE, cache_size=CACHE)
    tracemalloc.start()
    for count in (CACHE // 2, CACHE, 4 * CACHE):
        for number in range(count):
            repr(verifier.verify(endpoint.key.sign({**claims, "jti": str(number)}, "at+jwt")))  # reads all fields
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        print(f"cache of {CACHE}: {count:5} tokens seen, {len(verifier._state.cache):5} kept, {taken / 1024:7.0f} KiB")
    tracemalloc.stop()


def imports(rounds: int) -> None:
    """Print how long kiwi_id.verify takes to import where PyJWT and cryptography are there already."""
    program = "import time, jwt; began = time.perf_counter(); import kiwi_id.verify; print((time.perf_counter() - began) * 1000)"
    found = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(rounds)]
    print(
        f"import beyond PyJWT and cryptography: {statistics.median(found):.1f} ms (median of {rounds}); to reach: {MOST_IMPORT:g}"
    )


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    speed(args.rounds)
    memory()
    imports(9)


if __name__ == "__main__":
    main()
