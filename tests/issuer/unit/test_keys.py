"""issuer/keys.py and rotation.py: names of keys, what is refused, and a rotation that may be cut off anywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from kiwi_id.errors import ConfigError
from kiwi_id.instance import keys as pairs
from kiwi_id.instance.files import write_atomic
from kiwi_id.issuer import rotation
from kiwi_id.issuer.box import Sealer
from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME, KeySet, KeyState, file_name, make_key, strangers
from kiwi_id.issuer.rotation import Keyring, NoSuchKey, TooEarly, upcoming
from kiwi_id.verify.keys import thumbprint
from tests.issuer.unit.issuer import key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

# RFC 7638 §3.1
_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
    "-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08q"
    "NLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
_KID = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    """An Ed25519 pair and no directory yet; the pair is as old as NOW."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    pairs.generate_pair(private, public, kind="eddsa")
    os.utime(private, (NOW.timestamp(), NOW.timestamp()))
    return Keyring(private, public, tmp_path / "keys")


def test_the_kid_is_the_thumbprint_of_rfc_7638() -> None:
    """The RFC's own example (§3.1); and that of each key's required members alone."""
    assert thumbprint({"kty": "RSA", "n": _N, "e": "AQAB"}) == _KID
    for made in (key("rs256"), key("es256"), key("eddsa")):
        required = {name: value for name, value in made.jwk.items() if name not in ("use", "alg", "kid")}
        assert made.jwk["kid"] == made.kid == thumbprint(required)


@pytest.mark.parametrize("kind", ["rs256", "es256", "eddsa"])
def test_what_a_key_signs_verifies_by_its_published_half(kind: str) -> None:
    """The JWK alone is enough for another library's verification, and the algorithm is the key's."""
    made = key(kind)
    token = made.sign({"sub": "x"}, "JWT")
    published = jwt.PyJWK.from_dict(json.loads(KeySet(made, []).jwks)["keys"][0])
    assert jwt.decode(token, published, algorithms=[made.alg]) == {"sub": "x"}
    assert "private" not in repr(made)
    assert "seed" not in repr(made)


def test_kinds_that_no_algorithm_uses() -> None:
    """RSA below 2048 bits, other curves."""
    private: Any
    for private in (
        rsa.generate_private_key(public_exponent=65537, key_size=1024),  # noqa: S505 - it is the point
        ec.generate_private_key(ec.SECP384R1()),
        ed448.Ed448PrivateKey.generate(),
    ):
        with pytest.raises(ValueError, match="neither RSA of 2048 bits or more, nor P-256, nor Ed25519"):
            make_key(private, KeyState.NEXT, NOW, Path("/x"))


def pem(private: Any, password: bytes | None = None) -> bytes:
    """Return a private key in PEM."""
    how: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (lambda made: pem(made.private), 0o640, "mode 0640"),
        (lambda made: pem(made.private), 0o604, "mode 0604"),
        (lambda made: pem(made.private, b"pass"), 0o600, "an encrypted private key"),
        (lambda made: pem(key(number=8).private), 0o600, "a key whose thumbprint is"),
        (lambda made: pem(ec.generate_private_key(ec.SECP384R1())), 0o600, "neither RSA of 2048 bits"),
        (lambda made: b"-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----\n", 0o600, "no private key in PEM"),
        (lambda made: b"", 0o600, "no private key in PEM"),
    ],
)
def test_files_in_the_directory_that_are_refused(ring: Keyring, content: Callable[[Any], bytes], mode: int, words: str) -> None:
    """Readable by others, encrypted, of a wrong kind, another key than the name says, broken: told, never with content."""
    made = key(number=5)
    ring.directory.mkdir()
    path = ring.directory / file_name(made.kid, KeyState.RETIRED, NOW)
    path.write_bytes(content(made))
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        ring.load()
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert words in problem.found
    assert "geheim" not in str(problem)


def test_a_life_from_next_to_retired_to_gone(ring: Keyring) -> None:
    """Published before it signs, signing, published after it, gone; the private file is as old as the key is current."""
    old = ring.load().current
    following = ring.generate(NOW)
    assert following.kid == ring.generate(NOW + DAY / 2).kid
    found = upcoming(ring.load())
    assert found is not None
    assert (found.kid, found.since) == (following.kid, NOW)
    with pytest.raises(TooEarly, match="Rotate in 1 h 0 min"):
        ring.rotate(NOW + PUBLISH_AHEAD - timedelta(hours=1) + timedelta(seconds=30))
    rotated = ring.rotate(NOW + PUBLISH_AHEAD)
    assert (rotated.kid, rotated.since) == (following.kid, NOW + PUBLISH_AHEAD)
    assert pairs.check_pair(ring.private, ring.public) == []
    states = {one.kid: one.state for one in ring.load().keys}
    assert states == {following.kid: KeyState.CURRENT, old.kid: KeyState.RETIRED}
    assert ring.expire(NOW + PUBLISH_AHEAD + RETIRED_LIFETIME) == []
    assert [one.kid for one in ring.expire(NOW + PUBLISH_AHEAD + RETIRED_LIFETIME + timedelta(seconds=1))] == [old.kid]
    assert list(ring.directory.iterdir()) == []
    assert {path.stat().st_mode & 0o777 for path in (ring.private, ring.directory)} == {0o600, 0o700}


def test_what_has_changed_is_told_by_name(ring: Keyring) -> None:
    """For who reloads: which key signs, which are more, which are less; nothing where nothing has."""
    first = ring.load()
    assert ring.load().changes_from(first) == []
    following = ring.generate(NOW)
    second = ring.load()
    assert second.changes_from(first) == [f"a key more, {following.kid}"]
    ring.rotate(NOW + DAY)
    third = ring.load()
    assert third.changes_from(second) == [f"the signing key, now {following.kid}"]
    ring.retire(first.current.kid, NOW + DAY, force=True)
    assert ring.load().changes_from(third) == [f"a key less, {first.current.kid}"]


def test_files_whose_names_say_no_key_are_told(ring: Keyring) -> None:
    """They are left out, and said to be; what another process is just writing is none of them."""
    made = ring.generate(NOW)
    assert strangers(ring.directory) == []
    for name in ("next.pem", f"20300101-{made.kid}.next.pem", made.path.name + ".bak", ".hidden"):
        (ring.directory / name).write_bytes(b"x")
    assert {Path(problem.where).name for problem in strangers(ring.directory)} == {
        "next.pem",
        f"20300101-{made.kid}.next.pem",
        made.path.name + ".bak",
    }
    assert len(ring.load().keys) == 2
    assert strangers(ring.directory / "none") == []


def test_no_rotation_without_a_next_key_unless_forced(ring: Keyring) -> None:
    """Relying parties would meet a kid that they do not know."""
    with pytest.raises(TooEarly, match="no next key"):
        ring.rotate(NOW)
    old = ring.load().current
    assert ring.rotate(NOW, force=True).kid != old.kid


def test_another_kind_takes_the_place_of_the_next_key(ring: Keyring) -> None:
    """The one that was published but never signed goes."""
    first = ring.generate(NOW)
    second = ring.generate(NOW, "es256")
    assert second.alg == "ES256"
    assert first.kid not in {one.kid for one in ring.load().keys}
    assert ring.rotate(NOW + DAY).alg == "ES256"


def test_retire(ring: Keyring) -> None:
    """By the beginning of its name; not the current one, not nobody, and a retired one whose tokens live only by force."""
    current, following = ring.load().current, ring.generate(NOW)
    for name in ("", "zzzz", current.kid):
        with pytest.raises(NoSuchKey):
            ring.retire(name, NOW)
    assert ring.retire(following.kid[:12], NOW).kid == following.kid
    ring.rotate(NOW, force=True)
    with pytest.raises(TooEarly, match="--force"):
        ring.retire(current.kid, NOW + DAY)
    ring.retire(current.kid, NOW + DAY, force=True)
    assert len(ring.load().keys) == 1


def test_automatic_rotation_is_a_function_of_files_and_clock(ring: Keyring) -> None:
    """Over a year, hour by hour: each period one rotation, each next key published a day ahead, each old one a week after."""
    period = timedelta(days=30)
    rotated: list[datetime] = []
    published: dict[str, datetime] = {ring.load().current.kid: NOW - DAY}
    current = ring.load().current.kid
    at = NOW
    while at < NOW + 200 * DAY:
        ring.keep(at, period)
        present = ring.load()
        for one in present.keys:
            published.setdefault(one.kid, at)
        if present.current.kid != current:
            assert at - published[present.current.kid] >= PUBLISH_AHEAD
            assert current in {one.kid for one in present.keys}
            current = present.current.kid
            rotated.append(at)
        assert len(present.keys) <= 3
        for one in present.keys:
            if one.state is KeyState.RETIRED:
                assert at - one.since <= RETIRED_LIFETIME
        at += timedelta(hours=6)
    assert len(rotated) == 6
    assert {b - a for a, b in pairwise(rotated)} == {period}


def test_a_late_keeper_still_publishes_first(ring: Keyring) -> None:
    """After a year switched off: the next key is made now and signs a day later, not at once."""
    late = NOW + 365 * DAY
    old = ring.load().current.kid
    assert ring.keep(late, 30 * DAY)
    assert ring.load().current.kid == old
    assert not ring.keep(late + DAY / 2, 30 * DAY)
    assert ring.keep(late + DAY, 30 * DAY)
    assert ring.load().current.kid != old


# -- interruptions --------------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """The process ends here."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Return a function that lets the N-th file operation from now on fail; what was done is listed."""
    done: list[str] = []
    limit = [10**9]
    write, unlink, utime = write_atomic, Path.unlink, os.utime

    def step(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if len(done) >= limit[0]:
                raise PowerCut
            done.append(name)
            return operation(*arguments, **keywords)

        return wrapped

    def begin(after: int) -> list[str]:
        done.clear()
        limit[0] = after
        return done

    monkeypatch.setattr(rotation, "write_atomic", step("write", write))
    monkeypatch.setattr(Path, "unlink", step("unlink", unlink))
    monkeypatch.setattr("kiwi_id.issuer.rotation.os.utime", step("utime", utime))
    yield begin
    limit[0] = 10**9


@pytest.mark.parametrize("after", range(8))
def test_a_rotation_cut_off_anywhere_is_mended(ring: Keyring, cut: Callable[[int], list[str]], after: int) -> None:
    """Before each file operation: what is left loads, both keys are published, boxes open, and the rotation can go on."""
    old = ring.load().current
    sealed = Sealer("x", ring.load()).seal({"a": 1}, lifetime=60)
    following = ring.generate(NOW)
    done = cut(after)
    try:
        ring.rotate(NOW + DAY)
        assert len(done) <= after, "the rotation takes more steps than are cut here"
    except PowerCut:
        assert len(done) == after
    cut(10**9)
    again = Keyring(ring.private, ring.public, ring.directory)
    again.finish_interrupted()
    present = again.load()
    assert {one.kid for one in present.keys} == {old.kid, following.kid}
    assert present.current.kid in (old.kid, following.kid)
    assert Sealer("x", present).open(sealed) == {"a": 1}
    assert pairs.check_pair(ring.private, ring.public) == []
    if present.current.kid == old.kid:
        again.rotate(NOW + 2 * DAY)
    # One file each, and none that could bring an old key back as the next one.
    assert again.load().current.kid == following.kid
    (left,) = again.directory.iterdir()
    assert old.kid in left.name
    assert left.name.endswith(".retired.pem")
    assert upcoming(again.load()) is None
    again.expire(NOW + 60 * DAY)
    assert [one.kid for one in again.load().keys] == [following.kid]


@pytest.mark.parametrize("after", range(4))
def test_a_generation_cut_off_anywhere_leaves_one_next_key(ring: Keyring, cut: Callable[[int], list[str]], after: int) -> None:
    """Also when it takes the place of another kind's: the next try ends with the one that was asked for."""
    ring.generate(NOW)
    done = cut(after)
    try:
        ring.generate(NOW, "es256")
    except PowerCut:
        assert len(done) == after
    cut(10**9)
    again = Keyring(ring.private, ring.public, ring.directory)
    again.finish_interrupted()
    again.load()
    kept = again.generate(NOW, "es256")
    assert kept.alg == "ES256"
    assert {one.kid for one in again.load().keys if one.state is KeyState.NEXT} >= {kept.kid}


def test_finishing_changes_nothing_where_nothing_was_cut_off(ring: Keyring) -> None:
    """A pair that does not match for another reason stays as it is, and load tells it."""
    assert not ring.finish_interrupted()
    ring.generate(NOW)
    assert not ring.finish_interrupted()
    ring.public.write_bytes(pairs.public_pem(key(number=4).private))
    assert not ring.finish_interrupted()
    with pytest.raises(ConfigError, match="not the public half"):
        ring.load()


def test_two_processes_do_not_change_keys_at_once(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, and not for ever."""
    monkeypatch.setattr(rotation, "LOCK_SECONDS", 0.0)
    other = Keyring(ring.private, ring.public, ring.directory)
    with ring._locked():
        for act in (lambda: other.generate(NOW), lambda: other.rotate(NOW, force=True), other.finish_interrupted):
            with pytest.raises(ConfigError, match="a lock of another process"):
                act()
    assert other.generate(NOW).state is KeyState.NEXT


def test_a_retired_key_never_comes_back_as_the_next_one(ring: Keyring) -> None:
    """Two files of one key, as an interrupted rotation may leave them: it counts as retired, and once."""
    made = key(number=6)
    ring.directory.mkdir()
    for state, at in ((KeyState.RETIRED, NOW - DAY), (KeyState.NEXT, NOW), (KeyState.RETIRED, NOW - 2 * DAY)):
        path = ring.directory / file_name(made.kid, state, at)
        path.write_bytes(pem(made.private))
        path.chmod(0o600)
    (found,) = [one for one in ring.load().keys if one.kid == made.kid]
    assert (found.state, found.since) == (KeyState.RETIRED, NOW - DAY)
    assert upcoming(ring.load()) is None
    ring.retire(made.kid, NOW, force=True)
    assert list(ring.directory.iterdir()) == []
