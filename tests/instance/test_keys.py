"""The signing keys: made with the right modes, usable by PyJWT, and refused when anything about them is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from kiwi_id.instance import keys

Pair = tuple[Path, Path]


@pytest.fixture(scope="session", params=keys.KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[keys.Kind, Path, Path]:
    """A pair of each kind, generated once: RSA takes its time."""
    directory = tmp_path_factory.mktemp("keys")
    keys.generate_pair(directory / "private.pem", directory / "public.pem", kind=request.param)
    return request.param, directory / "private.pem", directory / "public.pem"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A pair of its own for a test that breaks it."""
    keys.generate_pair(tmp_path / "private.pem", tmp_path / "public.pem", kind="es256")
    return tmp_path / "private.pem", tmp_path / "public.pem"


def write(path: Path, key: PrivateKeyTypes) -> None:
    """Write a private key as PEM with mode 0600."""
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    path.chmod(0o600)


def test_a_new_pair_signs_and_verifies(made: tuple[keys.Kind, Path, Path]) -> None:
    """A JWT signed with the private half is verified with the public one, with the algorithm the kind is named after."""
    kind, private, public = made
    algorithm = {"rs256": "RS256", "es256": "ES256", "eddsa": "EdDSA"}[kind]
    token = jwt.encode({"sub": "x"}, private.read_bytes(), algorithm=algorithm)
    assert jwt.decode(token, public.read_bytes(), algorithms=[algorithm]) == {"sub": "x"}


def test_a_new_pair_passes_the_check(made: tuple[keys.Kind, Path, Path]) -> None:
    """What we make is what we accept, with the modes promised; RSA has the size promised."""
    kind, private, public = made
    assert keys.check_pair(private, public) == []
    assert (private.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)
    if kind == "rs256":
        key = serialization.load_pem_private_key(private.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        assert key.key_size == keys.RSA_BITS


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660, 0o777])
def test_a_private_key_for_others_is_refused(pair: Pair, mode: int) -> None:
    """A key that group or others may touch is no secret any more."""
    pair[0].chmod(mode)
    (problem,) = keys.check_pair(*pair)
    assert problem.found == f"mode {mode:04o}"
    assert "chmod 0600" in problem.fix


def test_read_only_for_the_owner_is_fine(pair: Pair) -> None:
    """0400 is as private as 0600."""
    pair[0].chmod(0o400)
    assert keys.check_pair(*pair) == []


def test_missing_and_broken_halves(pair: Pair) -> None:
    """Both halves are told at once; the content of a broken private key is never shown."""
    private, public = pair
    private.write_text("-----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY-----\n")
    public.unlink()
    words = [str(problem) for problem in keys.check_pair(private, public)]
    assert len(words) == 2
    assert "no private key in PEM" in words[0]
    assert "no such file" in words[1]
    assert "geheim" not in "".join(words)


def test_halves_of_different_pairs(pair: Pair, tmp_path: Path) -> None:
    """Services would refuse every token; so the start is refused."""
    keys.generate_pair(tmp_path / "other.pem", pair[1], kind="es256")
    (problem,) = keys.check_pair(*pair)
    assert "not the public half" in problem.found


def test_the_public_half_can_be_made_again(pair: Pair) -> None:
    """A lost public half is no loss."""
    before = pair[1].read_bytes()
    pair[1].unlink()
    keys.derive_public(*pair)
    assert pair[1].read_bytes() == before


def test_kinds_and_sizes_that_cannot_sign(pair: Pair) -> None:
    """RSA below 2048 bits (RFC 7518 §3.3) and curves without a supported algorithm are refused."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # it is the point
    for key, found in ((weak, "an RSA key of 1024 bits"), (ec.generate_private_key(ec.SECP384R1()), "secp384r1")):
        write(pair[0], key)
        keys.derive_public(*pair)
        (problem,) = keys.check_pair(*pair)
        assert found in problem.found
        assert "2048" in problem.allowed


def test_importing_costs_nothing() -> None:
    """The supervisor imports these modules; cryptography must come only with the first use."""
    program = "import sys, kiwi_id.instance.keys, kiwi_id.compatibility; sys.exit('cryptography' in sys.modules)"
    root = Path(__file__).parent.parent.parent
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, check=False).returncode == 0
