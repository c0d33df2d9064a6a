"""The instance's signing key pair: making it with the right modes, and checking what is there.

cryptography is imported inside the functions: importing this module costs a supervisor nothing.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from kiwi_id.errors import Problem
from kiwi_id.instance.certs import load_private, public_der
from kiwi_id.instance.files import read_file, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

Kind = Literal["rs256", "es256", "eddsa"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RSA_BITS = 2048
"""RS256 is the one algorithm that every client must support (OpenID Connect Core §15.1), hence the default kind. 2048 bits, as the
large providers have it, because each login takes two signatures: measured, a code exchange is 2.4 times cheaper than with 3072, and
each token 171 characters shorter. NIST SP 800-57 accepts it until 2030; whoever is bound to BSI TR-02102 (3000 bits) makes a
longer key by openssl, or takes --key-type es256. What ends a key's usefulness first is its age: set jwt_key_rotation."""
RSA_MINIMUM = 2048
"""RFC 7518 §3.3: a key of 2048 bits or larger MUST be used."""


def generate_pair(private: Path, public: Path, *, kind: Kind = "rs256") -> None:
    """Write a new pair: ``private`` in PKCS#8 with mode 0600, ``public`` as SubjectPublicKeyInfo with 0644, both PEM.

    The private half is written first, so that no public key is ever published whose private half was lost. Raises OSError.
    """
    key = new_private(kind)
    write_atomic(private, private_pem(key), 0o600)
    write_atomic(public, public_pem(key), 0o644)


def new_private(kind: Kind) -> PrivateKeyTypes:
    """Return a new private key of the given kind."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415  # see the module's docstring

    if kind == "rs256":
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    if kind == "es256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def derive_public(private: Path, public: Path) -> None:
    """Write the public half of an existing private key (mode 0644). Raises OSError, and ValueError for an unreadable key."""
    write_atomic(public, public_pem(load_private(private)), 0o644)


def check_pair(private: Path, public: Path, *, prove: bool = True) -> list[Problem]:
    """Return everything that makes this pair unusable for signing tokens.

    Without ``prove`` an RSA key's primes are believed: that a key nobody but we can read fits the published half is shown all
    the same, and a running Kiwi ID does not stand still for a tenth of a second at each reload.

    Missing or unreadable halves, a private key that group or others may read, a kind that no supported algorithm uses, RSA below
    2048 bits, and halves that do not belong together.
    """
    problems: list[Problem] = []
    restore = "Restore it from a backup, or run 'kiwi-id init' to make what is missing."
    signing: PrivateKeyTypes | None = None
    try:
        mode = stat.S_IMODE(private.stat().st_mode)
        if mode & 0o077:
            fix = f"chmod 0600 {private}; consider the key known to who could read it."
            problems.append(Problem(str(private), "", f"mode {mode:04o}", "0600 or 0400: nobody but the owner", fix))
        signing = load_private(private, prove=prove)
        problems += _unsuitable(private, signing)
    except (OSError, ValueError) as error:
        problems.append(Problem(str(private), "", _words(error), "an unencrypted private key in PEM", restore))
    try:
        published = _load_public(public)
        if signing is not None and public_der(published) != public_der(signing.public_key()):
            found = f"a key that is not the public half of {private}"
            fix = f"Remove it and run 'kiwi-id init' (or: openssl pkey -in {private} -pubout -out {public})."
            problems.append(Problem(str(public), "", found, "the matching half", fix))
    except (OSError, ValueError) as error:
        problems.append(Problem(str(public), "", _words(error), "a public key in PEM", restore))
    return problems


def _unsuitable(private: Path, key: PrivateKeyTypes) -> list[Problem]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    allowed = f"RSA of at least {RSA_MINIMUM} bits (RS256), EC P-256 (ES256) or Ed25519 (EdDSA)"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return []
    if isinstance(key, rsa.RSAPrivateKey):
        found = f"an RSA key of {key.key_size} bits" if key.key_size < RSA_MINIMUM else ""
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = f"an EC key on {key.curve.name}" if not isinstance(key.curve, ec.SECP256R1) else ""
    else:
        found = f"a key of the kind {type(key).__name__.removesuffix('PrivateKey')}"
    return [Problem(str(private), "", found, allowed, "Make a new pair with 'kiwi-id init --force --key-type …'.")] if found else []


def _load_public(public: Path) -> PublicKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    data = read_file(public)
    try:
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no public key in PEM that can be read") from None


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return the key in PKCS#8, PEM, unencrypted: for a file of mode 0600 only."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public_pem(key: PrivateKeyTypes) -> bytes:
    """Return the public half as SubjectPublicKeyInfo, PEM."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _words(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
