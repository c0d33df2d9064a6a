"""The loopback certificate: real TLS accepts it, renewal touches only ours, and the check finds what breaks a listener."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kiwi_id.instance import certs

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A loopback certificate made at NOW, as (chain, key)."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certs.make_loopback(chain, key, now=NOW)
    return chain, key


def foreign(chain: Path, key: Path, *, until: datetime) -> None:
    """Write a self-signed certificate that is not ours."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "id.example.com")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(7).not_valid_before(until - timedelta(days=90)).not_valid_after(until)
    chain.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(pem)
    key.chmod(0o600)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_real_tls_accepts_it(tmp_path: Path, host: str) -> None:
    """OpenSSL, as strict as Python 3.13's default, verifies chain and name over a real socket."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certs.make_loopback(chain, key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(chain, key)
    client = ssl.create_default_context(cafile=str(chain))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(far, server_side=True) as there:
            there.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with near, client.wrap_socket(near, server_hostname=host) as here:
        assert here.recv(5) == b"hello"
    thread.join()


def test_modes_and_dates(pair: tuple[Path, Path]) -> None:
    """The key is nobody else's; two years, told apart by our name."""
    chain, key = pair
    assert key.stat().st_mode & 0o777 == 0o600
    assert chain.stat().st_mode & 0o777 == 0o644
    (leaf,) = certs.load_chain(chain)
    assert certs.is_ours(leaf)
    assert leaf.not_valid_after_utc == NOW + certs.VALIDITY
    assert certs.check_tls(chain, key) == []


def test_a_certificate_from_the_future_is_renewed(pair: tuple[Path, Path]) -> None:
    """One that was made while the clock was ahead is replaced once the clock is right: clients would refuse it for years."""
    chain, key = pair
    right = NOW - timedelta(days=3650)
    assert certs.renew_if_due(chain, key, now=right)
    assert certs.check_tls(chain, key) == []
    assert not certs.renew_if_due(chain, key, now=right)


@pytest.mark.parametrize(("left", "due"), [(31, False), (30, True), (1, True), (-400, True)])
def test_renewal_when_due(pair: tuple[Path, Path], left: int, due: bool) -> None:
    """Renewed within 30 days of the end and after it; the key and the names stay, so only one file changes."""
    chain, key = pair
    before, secret = chain.read_bytes(), key.read_bytes()
    moment = NOW + certs.VALIDITY - timedelta(days=left)
    assert certs.renew_if_due(chain, key, now=moment) is due
    assert (chain.read_bytes() != before) is due
    assert key.read_bytes() == secret
    assert certs.check_tls(chain, key) == []
    names = certs.load_chain(chain)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(str(name.value) for name in names) == sorted(certs.LOOPBACK_HOSTS)
    assert not certs.renew_if_due(chain, key, now=moment)


def test_certificates_of_others_are_left_alone(tmp_path: Path) -> None:
    """An operator's certificate, ended or not, is the operator's; missing and broken files are no reason to crash."""
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    assert not certs.renew_if_due(chain, key, now=NOW)
    foreign(chain, key, until=NOW - timedelta(days=1))
    before = chain.read_bytes()
    assert not certs.renew_if_due(chain, key, now=NOW)
    assert chain.read_bytes() == before
    chain.write_text("nonsense")
    assert not certs.renew_if_due(chain, key, now=NOW)


def test_a_certificate_whose_key_was_exchanged_is_not_renewed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A renewal would hide that somebody has exchanged one half."""
    chain, key = pair
    foreign(tmp_path / "other.pem", key, until=NOW)
    assert not certs.renew_if_due(chain, key, now=NOW + certs.VALIDITY)


def test_check_finds_what_breaks_a_listener(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Missing and broken files, a foreign key, an encrypted key: each told, all at once."""
    chain, key = pair
    missing = certs.check_tls(tmp_path / "no-chain", tmp_path / "no-key")
    assert [problem.found for problem in missing] == ["no such file or directory"] * 2
    (tmp_path / "junk").write_text("junk")
    assert [p.found for p in certs.check_tls(tmp_path / "junk", tmp_path / "junk")] == [
        "no certificate in PEM that can be read",
        "no private key in PEM that can be read",
    ]
    private = certs.load_private(key)
    sealed = serialization.BestAvailableEncryption(b"geheim")
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed))
    assert "encrypted private key" in certs.check_tls(chain, key)[0].found
    foreign(tmp_path / "other.pem", key, until=NOW)
    assert "does not belong" in certs.check_tls(chain, key)[0].found


def test_warnings(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    """Dates that clients will not like (but not ours on the loopback, which is renewed) and a key that all can read are told."""
    assert certs.tls_warnings(*pair, now=NOW + certs.VALIDITY, pinned=True) == []
    assert "ended" in certs.tls_warnings(*pair, now=NOW + certs.VALIDITY)[0].found
    (early,) = certs.tls_warnings(*pair, now=NOW - timedelta(days=2))
    assert "begins" in early.found
    assert "Is the clock right? It is served all the same" in early.fix
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    foreign(chain, key, until=NOW + timedelta(days=29))
    key.chmod(0o644)
    ends, mode = certs.tls_warnings(chain, key, now=NOW)
    assert "ends 2026-12-23" in ends.found
    assert "mode 0644" in mode.found
    assert "ended" in certs.tls_warnings(chain, key, now=NOW + timedelta(days=30))[0].found
