"""TLS files: the loopback certificate that Kiwi ID makes for kanidmd, and the check of any chain and key.

Kanidm listens with TLS only. Its own ``kanidmd cert-generate`` makes certificates that last five days (server/core/src/crypto.rs),
so we make ours: a self-signed leaf that Kiwi ID pins, known by its organisation name and renewed by itself. cryptography is
imported inside the functions: a supervisor that finds everything in order should not pay for it.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from kiwi_id.errors import Problem
from kiwi_id.instance.files import read_file, write_atomic

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
    from cryptography.x509 import Certificate

ORGANISATION = "Kiwi ID loopback"
"""The subject organisation of our certificates; only certificates that bear it are ever renewed."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
VALIDITY = timedelta(days=730)


def make_loopback(
    chain: Path, key: Path, hosts: Sequence[str] = LOOPBACK_HOSTS, *, now: datetime | None = None, key_mode: int = 0o600
) -> None:
    """Write a new P-256 key and a certificate for ``hosts`` (DNS names and IP addresses), valid two years from ``now``.

    ``key`` gets ``key_mode`` (0640 when kanidmd runs as another user of the same group), ``chain`` 0644. The key is written
    first, so a crash in between leaves a pair that does not match, which ``kiwi-id check`` tells, never a certificate without
    key. P-256 because both kanidmd's OpenSSL (1.5) and rustls (1.7 and later) take it, and it is cheap. Raises OSError.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # see the module's docstring
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    leaf = _leaf(private, hosts, now or datetime.now(UTC))
    write_atomic(key, pem, key_mode)
    write_atomic(chain, leaf, 0o644)


def renew_if_due(chain: Path, key: Path, *, now: datetime | None = None, within: timedelta = timedelta(days=30)) -> bool:
    """Renew our own certificate when it ends within ``within`` of ``now`` (or has ended); return whether it was renewed.

    Also one that has not begun yet: it was made when the clock was wrong, and clients would refuse it until then.

    Certificates of others, and files that cannot be read, are left alone (False). The key is kept: so the renewal is the
    replacement of one file, which is atomic, and a crash cannot leave a pair that does not match. A running kanidmd must be told
    by SIGHUP, and whoever pins the chain must read it again. Raises OSError when the new certificate cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        old = load_chain(chain)[0]
        private = load_private(key)
    except (OSError, ValueError):
        return False
    now = now or datetime.now(UTC)
    if not is_ours(old) or (old.not_valid_after_utc - now > within and old.not_valid_before_utc <= now):
        return False
    if not isinstance(private, ec.EllipticCurvePrivateKey) or public_der(old.public_key()) != public_der(private.public_key()):
        return False  # somebody has exchanged one half; renewing would hide it
    write_atomic(chain, _leaf(private, _hosts_of(old), now), stat.S_IMODE(chain.stat().st_mode))
    return True


def check_tls(chain: Path, key: Path) -> list[Problem]:
    """Return what makes a TLS listener with these files fail: unreadable, not PEM, a foreign key.

    Not the dates: a listener starts and serves all the same, which :func:`tls_warnings` tells.
    """
    problems: list[Problem] = []
    leaf: Certificate | None = None
    private: PrivateKeyTypes | None = None
    try:
        leaf = load_chain(chain)[0]
    except (OSError, ValueError) as error:
        problems.append(Problem(str(chain), "", _words(error), "a certificate chain in PEM, the server's own first", ""))
    try:
        private = load_private(key)
    except (OSError, ValueError) as error:
        problems.append(Problem(str(key), "", _words(error), "an unencrypted private key in PEM", ""))
    if leaf is not None and private is not None and public_der(leaf.public_key()) != public_der(private.public_key()):
        found = "a key that does not belong to the first certificate"
        fix = "Give the key that the certificate was made for; the server's certificate must come first in the chain."
        problems.append(Problem(str(key), "", found, f"the key of {chain}", fix))
    return problems


def tls_warnings(chain: Path, key: Path, *, now: datetime | None = None, pinned: bool = False) -> list[Problem]:
    """Return what clients will not like, or is careless: not valid now, or not for 30 days more; a key that others can read.

    ``pinned``: on the loopback, where the pin holds whatever the dates say; and what Kiwi ID made for itself it renews there.
    """
    found: list[Problem] = []
    try:
        leaf = load_chain(chain)[0]
        mode = stat.S_IMODE(key.stat().st_mode)
    except (OSError, ValueError):
        return []  # check_tls has told
    now = now or datetime.now(UTC)
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    served = "" if pinned else " It is served all the same, and clients that check it refuse it."
    if begins > now and not pinned:
        text = f"a certificate that begins {begins:%Y-%m-%d %H:%M} UTC"
        found.append(Problem(str(chain), "", text, "a valid certificate", f"Is the clock right?{served}"))
    elif ends <= now and not (pinned and is_ours(leaf)):
        fix = "Renew it, then: kiwi-id reload." + served
        found.append(Problem(str(chain), "", f"a certificate that ended {ends:%Y-%m-%d %H:%M} UTC", "a valid certificate", fix))
    elif ends - now <= timedelta(days=30) and not (pinned and is_ours(leaf)):
        found.append(Problem(str(chain), "", f"a certificate that ends {ends:%Y-%m-%d %H:%M} UTC", "", "Renew it."))
    if mode & 0o007:
        found.append(Problem(str(key), "", f"mode {mode:04o}: every user can read the key", "", f"chmod 0600 {key}"))
    return found


def load_chain(chain: Path) -> list[Certificate]:
    """Return the certificates of a PEM file, at least one. Raises OSError and ValueError (with words for a person)."""
    from cryptography import x509  # noqa: PLC0415

    data = read_file(chain)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError("no certificate in PEM that can be read") from None


def load_private(key: Path, *, prove: bool = True) -> PrivateKeyTypes:
    """Return an unencrypted private key of a PEM file. Raises OSError and ValueError (with words, never with the key).

    ``prove`` also tests an RSA key's primes: a tenth of a second that holds the interpreter's lock.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    data = read_file(key)
    try:
        return load_pem_private_key(data, password=None, unsafe_skip_rsa_key_validation=not prove)
    except TypeError:
        raise ValueError("an encrypted private key, and nobody there to type its passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no private key in PEM that can be read") from None


def public_der(key: PublicKeyTypes) -> bytes:
    """Return the SubjectPublicKeyInfo of ``key`` in DER, to compare the halves of a pair."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def is_ours(certificate: Certificate) -> bool:
    """Tell whether Kiwi ID made this certificate: self-issued, with our organisation name."""
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return certificate.issuer == certificate.subject and [name.value for name in names] == [ORGANISATION]


def is_loopback_file(chain: Path) -> bool:
    """Tell whether ``chain`` holds a certificate of ours; False for anything that cannot be read."""
    try:
        return is_ours(load_chain(chain)[0])
    except (OSError, ValueError):
        return False


def _leaf(private: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: datetime) -> bytes:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: PLC0415

    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION), x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]
    )
    public = private.public_key()
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # a clock that is set back a little after boot must not break the start
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, encipher_only=False, decipher_only=False, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _hosts_of(certificate: Certificate) -> list[str]:
    from cryptography import x509  # noqa: PLC0415

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _words(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
