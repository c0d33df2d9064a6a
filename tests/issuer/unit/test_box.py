"""issuer/box.py: nobody but us makes a box, reads one, changes one, or passes one off as another's."""

from __future__ import annotations

import base64
import json
import os
import string
import time
import zlib

import pytest

from kiwi_id.issuer.box import NotOurs, Sealer
from kiwi_id.issuer.http import OAuthError
from kiwi_id.issuer.keys import KeySet
from tests.issuer.unit.issuer import World, key

ALPHABET = string.ascii_letters + string.digits + "-_"


def sealer(purpose: str = "p", number: int = 0, *others: int) -> Sealer:
    """Return a sealer with the ``number``-th key as the current one."""
    return Sealer(purpose, KeySet(key(number=number), [key(number=other) for other in others]))


def test_what_is_sealed_opens_and_shows_nothing() -> None:
    """Round trip of odd text; the content cannot be read, and the same content never looks the same twice."""
    content = {"a": "é\x00\U0001f95d", "n": None, "i": 7, "l": [1]}
    first, second = (sealer().seal(content, lifetime=60) for _ in range(2))
    assert sealer().open(first) == content
    assert first != second
    assert set(first) <= set(ALPHABET)


def test_purposes_and_keys_are_apart() -> None:
    """A box opens for its purpose and its key only; the purposes of the issuer are all different."""
    sealed = sealer("code").seal({"a": 1}, lifetime=60)
    for other in (sealer("token"), sealer("code", 1), sealer("code", 1, 2)):
        with pytest.raises(NotOurs):
            other.open(sealed)
    ctx = World().ctx
    sealers = [value for value in vars(ctx).values() if isinstance(value, Sealer)]
    assert len(sealers) >= 9
    for one in sealers:
        sealed = one.seal({"a": 1}, lifetime=60)
        for other in sealers:
            if other is not one:
                with pytest.raises(NotOurs):
                    other.open(sealed)


def test_a_retired_key_still_opens() -> None:
    """After a rotation boxes of the old key open, and new ones are of the new key."""
    old = sealer("x", 0).seal({"a": 1}, lifetime=60)
    rotated = sealer("x", 1, 0)
    assert rotated.open(old) == {"a": 1}
    assert sealer("x", 1).open(rotated.seal({"a": 2}, lifetime=60)) == {"a": 2}


def test_every_changed_character_is_noticed() -> None:
    """At each place, with each of the alphabet's characters: also those that base64 would decode to the same bytes."""
    one = sealer()
    for content in ({"a": 1}, {"a": "x"}, {"a": "xy"}):  # lengths with and without spare bits in the last character
        sealed = one.seal(content, lifetime=60)
        assert one.open(sealed) == content
        for at in range(len(sealed)):
            for char in ALPHABET if at == len(sealed) - 1 else ALPHABET[at % 7 :: 7]:
                changed = sealed[:at] + char + sealed[at + 1 :]
                if changed != sealed:
                    with pytest.raises(NotOurs):
                        one.open(changed)


def test_one_spelling_only() -> None:
    """Padding, the other base64 alphabet and white space decode alike; a code in such a spelling would count as another one."""
    one = sealer()
    boxes = [one.seal({"a": "x" * (at % 3)}, lifetime=60) for at in range(200)]
    sealed = next(text for text in boxes if "-" in text and len(text) % 4)
    for other in (sealed + "=" * (-len(sealed) % 4), sealed.replace("-", "+"), sealed + "\n", " " + sealed, sealed + "===="):
        with pytest.raises(NotOurs):
            one.open(other)


@pytest.mark.parametrize("junk", ["", "a", "AAAA", "=", "é", "\ud800", "\x00", "A" * 16385, "A" * 100, "kiwi-", "a.b.c", "-" * 64])
def test_junk_is_not_ours(junk: str) -> None:
    """Empty, cut off, not ASCII, far too long."""
    with pytest.raises(NotOurs):
        sealer().open(junk)


def test_cut_off_and_grown_boxes() -> None:
    """Every prefix, and a box with more behind it."""
    one = sealer()
    sealed = one.seal({"a": 1}, lifetime=60)
    for end in range(len(sealed)):
        with pytest.raises(NotOurs):
            one.open(sealed[:end])
    with pytest.raises(NotOurs):
        one.open(sealed + "A")


def test_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box opens to the end of its life, and not after it."""
    one, now = sealer(), time.time()
    monkeypatch.setattr("kiwi_id.issuer.box.time.time", lambda: now)
    sealed = one.seal({"a": 1}, lifetime=60)
    monkeypatch.setattr("kiwi_id.issuer.box.time.time", lambda: now + 59)
    assert one.open(sealed) == {"a": 1}
    monkeypatch.setattr("kiwi_id.issuer.box.time.time", lambda: now + 61)
    with pytest.raises(NotOurs):
        one.open(sealed)


def test_what_could_not_be_opened_again_is_not_sealed() -> None:
    """Too long as text, or packed so well that it would be too large when opened: refused with words for the developer."""
    for content in (os.urandom(14000).hex(), "a" * 70000):
        with pytest.raises(OAuthError, match="too long"):
            sealer().seal({"a": content}, lifetime=60)


@pytest.mark.parametrize("packed", [zlib.compress(b'"' + b"a" * 10_000_000 + b'"', 9), zlib.compress(b"{}")[:-5], b"no deflate"])
def test_a_box_that_would_blow_up_is_refused(packed: bytes) -> None:
    """Even one sealed with our key: ten million bytes in ten thousand, a stream without its end, and none at all."""
    one = sealer()
    hint, nonce = one._current, os.urandom(12)
    data = hint + nonce + one._ciphers[hint].encrypt(nonce, b"\x01" + packed, hint)
    with pytest.raises(NotOurs):
        one.open(base64.urlsafe_b64encode(data).rstrip(b"=").decode())


def test_a_long_state_is_packed() -> None:
    """Repetitive content is deflated: the state that travels through Kanidm's cookie must stay short."""
    content = {"r": "https://app.example/callback?" + "next=/home&" * 60}
    assert len(sealer().seal(content, lifetime=60)) < len(json.dumps(content)) / 2
