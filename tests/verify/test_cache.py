"""Tokens that are remembered: bounded, by digest, as long as they and their keys are good, and for all threads alike."""

from __future__ import annotations

import gc
import hashlib
import json
import threading
from typing import Any

import pytest

from kiwi_id.verify import BadSignature, ExpiredToken, KeysError, TokenError, WrongAudience
from kiwi_id.verify import keys as key_module
from kiwi_id.verify.cache import Cache, Entry
from tests.verify.craft import ED, NOW, STRANGER, Clock, Signer, verifier


class Count:
    """Counts how often a signature is really checked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks = 0
        real = key_module.Key.verifies

        def counted(key: key_module.Key, *arguments: Any) -> bool:
            self.checks += 1
            return real(key, *arguments)

        monkeypatch.setattr(key_module.Key, "verifies", counted)


def test_the_second_time_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same claims object, without another look at the signature, also when it comes as bytes."""
    count, check = Count(monkeypatch), verifier()
    token = ED.token()
    first = check.verify(token)
    assert check.verify(token) is first
    assert check.verify(token.encode()) is first
    assert count.checks == 1


def test_another_token_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that differ in one claim, or only in where the dots are, are not taken for each other."""
    count, check = Count(monkeypatch), verifier()
    one, two = ED.token(sub="one"), ED.token(sub="two")
    assert (check.verify(one).subject, check.verify(two).subject) == ("one", "two")
    assert count.checks == 2
    head, body, signature = one.split(".")
    for moved in (
        f"{head[:-1]}.{head[-1]}{body}.{signature}",
        f"{head}.{body}{signature[0]}.{signature[1:]}",
        one.replace(".", ""),
    ):
        with pytest.raises(TokenError):
            check.verify(moved)


def test_expiry_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered token is refused at the very second at which it would be without memory."""
    clock = Clock()
    check = verifier(clock=clock, leeway=2)
    token = ED.token(exp=NOW + 10)
    check.verify(token)
    clock.now = NOW + 11.99
    assert check.verify(token)
    clock.now = NOW + 12
    with pytest.raises(ExpiredToken):
        check.verify(token)


def test_refusals_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused token costs its check each time, and takes no place; a token that becomes good is good."""
    count, clock = Count(monkeypatch), Clock()
    check = verifier(clock=clock)
    early = ED.token(nbf=NOW + 60)
    for refused in (STRANGER.token(), ED.token(aud="other"), ED.token(exp=NOW - 60), early):
        for _ in range(3):
            with pytest.raises(TokenError):
                check.verify(refused)
    assert count.checks == 12
    assert len(check._state.cache) == 0
    clock.now = NOW + 60
    assert check.verify(early)


def test_verifiers_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one service accepted another one does not for that: a verifier of another audience has a memory of its own."""
    source = verifier()._source
    mail, files = verifier(keys=source), verifier(keys=source, audience="files")
    token = ED.token()
    assert mail.verify(token)
    with pytest.raises(WrongAudience):
        files.verify(token)


def test_it_is_bounded() -> None:
    """At most so many; the oldest goes first, so those that live longest stay."""
    check = verifier(cache_size=3)
    tokens = [ED.token(sub=f"user {number}") for number in range(10)]
    claims = [check.verify(token) for token in tokens]
    assert len(check._state.cache) == 3
    assert [check.verify(token) is found for token, found in zip(tokens[-3:], claims[-3:], strict=True)] == [True] * 3
    assert check.verify(tokens[0]) is not claims[0]
    assert len(check._state.cache) == 3


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """cache_size=0 checks each time."""
    count, check = Count(monkeypatch), verifier(cache_size=0)
    token = ED.token()
    assert check.verify(token) is not check.verify(token)
    assert (count.checks, len(check._state.cache)) == (2, 0)


def test_tokens_themselves_are_not_kept() -> None:
    """The memory holds digests and claims: neither a token nor a signature can be found in a core dump's cache."""
    check = verifier()
    token = ED.token()
    check.verify(token)
    assert list(check._state.cache._entries) == [hashlib.sha256(token.encode()).digest()]
    seen: set[int] = set()
    found: list[Any] = [check._state.cache._entries]
    while found:
        thing = found.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            assert token.split(".")[2] not in (thing if isinstance(thing, str) else thing.decode("latin-1"))
        elif isinstance(thing, dict | list | tuple | set | frozenset | Entry) or hasattr(thing, "__dict__"):
            found += gc.get_referents(thing)


def test_many_headers_take_no_more_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are remembered when a good signature covers them, thirty-two at most; others are read each time and work."""
    check = verifier()
    for number in range(100):
        assert check.verify(ED.token({"x": number}))
        with pytest.raises(BadSignature):
            check.verify(STRANGER.token({"y": number}))
    assert len(check._state.headers) == 32
    assert all(b"eyJ" in head for head in check._state.headers)


class Switch:
    """A source of keys that is changed by the test."""

    def __init__(self, *signers: Signer) -> None:
        self.turn(*signers)

    def turn(self, *signers: Signer) -> None:
        """Change the keys."""
        self.keys = key_module.given({signer.kid: signer.public for signer in signers})

    def current(self) -> key_module.Keys:
        """Return the keys."""
        return self.keys

    def missed(self) -> None:
        """Nothing else is known."""


def test_a_change_of_keys_during_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was being checked while its key went is told its claims, but is not remembered for anybody after it."""
    source = Switch(ED)
    check = verifier(keys=source)
    token = ED.token()
    real = key_module.Key.verifies

    def slow(key: key_module.Key, *arguments: Any) -> bool:
        source.turn(Signer("EdDSA", "next"))
        return real(key, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(key_module.Key, "verifies", slow)
        assert check.verify(token)
    for _ in range(2):
        with pytest.raises(TokenError):
            check.verify(token)


def test_threads() -> None:
    """Eight threads that check the same tokens, while keys change and the memory overflows, are all told the truth."""
    one, two = Signer("EdDSA", "one"), Signer("EdDSA", "two")
    source = Switch(one, two)
    check = verifier(keys=source, cache_size=4)
    good = {two.token(sub=f"user {number}"): f"user {number}" for number in range(12)}
    bad = [STRANGER.token({"kid": "two"}, sub=f"user {number}") for number in range(4)]
    errors: list[str] = []
    start = threading.Barrier(9)
    stop = threading.Event()

    def work() -> None:
        start.wait()
        try:
            for _ in range(60):
                for token, subject in good.items():
                    found = check.verify(token).subject
                    if found != subject:
                        errors.append(f"{found} for {subject}")
                for token in bad:
                    try:
                        check.verify(token)
                        errors.append("a stranger passed")
                    except BadSignature:
                        pass
        except (TokenError, KeysError, RuntimeError, KeyError) as error:
            errors.append(repr(error))

    def turn() -> None:
        start.wait()
        while not stop.is_set():
            source.turn(two)
            source.turn(one, two)

    threads = [threading.Thread(target=work) for _ in range(8)]
    turner = threading.Thread(target=turn)
    for thread in (*threads, turner):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    turner.join(60)
    assert errors == []
    assert len(check._state.cache) <= 4


def test_many_threads_fill_one_cache() -> None:
    """Concurrent puts never leave more than the bound."""
    cache = Cache(10)
    entry = Entry(verifier().verify(ED.token()), 0, 1)
    start = threading.Barrier(8)

    def fill(worker: int) -> None:
        start.wait()
        for number in range(2000):
            cache.put(json.dumps([worker, number]).encode(), entry)
            assert len(cache) <= 10

    threads = [threading.Thread(target=fill, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(cache) == 10
