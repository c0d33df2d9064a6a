"""RSA signatures whose encoding is almost the one of RFC 8017 §9.2: only the private key can make them, and none may pass.

What is compared must be the whole encoding: where a check read its digest only and skipped the rest, signatures were forged for
keys with small exponents (Bleichenbacher, 2006), more than once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from kiwi_id.verify import BadSignature
from tests.verify.craft import SIGNERS, b64, payload, verifier

SIGNER = SIGNERS["RS256"]
assert isinstance(SIGNER.private, rsa.RSAPrivateKey)
NUMBERS = SIGNER.private.private_numbers()
MODULUS, OCTETS = NUMBERS.public_numbers.n, 256
VERIFIER = verifier(SIGNER)
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
SHA256_WITHOUT_NULL = bytes.fromhex("302f300b0609608648016503040201" + "0420")
SHA512 = bytes.fromhex("3051300d060960864801650304020305000440")
SHA1 = bytes.fromhex("3021300906052b0e03021a05000414")


def padded(data: bytes, *, kind: int = 1, fill: bytes = b"\xff", end: bytes = b"\0") -> bytes:
    """Return ``data`` as EMSA-PKCS1-v1_5 pads it, or nearly so."""
    return bytes([0, kind]) + fill * (OCTETS - 2 - len(end) - len(data)) + end + data


def signed(encode: Callable[[bytes], bytes], claims: str = "") -> tuple[str, bytes]:
    """Return what is signed, and the signature that turns into what ``encode`` makes of it."""
    text = f"{b64(json.dumps(SIGNER.header()))}.{b64(claims or json.dumps(payload()))}"
    encoded = encode(text.encode())
    assert len(encoded) == OCTETS
    return text, pow(int.from_bytes(encoded, "big"), NUMBERS.d, MODULUS).to_bytes(OCTETS, "big")


def right(text: bytes) -> bytes:
    """The encoding that RFC 8017 §9.2 gives."""
    return padded(SHA256 + hashlib.sha256(text).digest())


def garbage_behind(text: bytes) -> bytes:
    """Eight octets of padding, and the rest free to choose behind the digest."""
    data = b"\xff" * 8 + b"\0" + SHA256 + hashlib.sha256(text).digest()
    return b"\0\1" + data + b"x" * (OCTETS - 2 - len(data))


NEARLY: dict[str, Callable[[bytes], bytes]] = {
    "garbage behind the digest": garbage_behind,
    "an octet behind the digest": lambda text: padded(SHA256 + hashlib.sha256(text).digest() + b"\0"),
    "without NULL": lambda text: padded(SHA256_WITHOUT_NULL + hashlib.sha256(text).digest()),
    "the digest alone": lambda text: padded(hashlib.sha256(text).digest()),
    "SHA-1": lambda text: padded(SHA1 + hashlib.sha1(text).digest()),  # noqa: S324 - to be refused
    "SHA-512": lambda text: padded(SHA512 + hashlib.sha512(text).digest()),
    "called SHA-1": lambda text: padded(SHA1 + hashlib.sha256(text).digest()[:20]),
    "a digest that is cut off": lambda text: padded(SHA256 + hashlib.sha256(text).digest()[:31]),
    "the digest of something else": lambda text: padded(SHA256 + hashlib.sha256(text + b"x").digest()),
    "block type 0": lambda text: padded(SHA256 + hashlib.sha256(text).digest(), kind=0, fill=b"\0"),
    "block type 2": lambda text: padded(SHA256 + hashlib.sha256(text).digest(), kind=2, fill=b"\xaa"),
    "another filling": lambda text: padded(SHA256 + hashlib.sha256(text).digest(), fill=b"\xfe"),
    "no end of the padding": lambda text: padded(SHA256 + hashlib.sha256(text).digest(), end=b""),
    "a first octet that is not zero": lambda text: b"\1" + right(text)[1:],
    "nothing": lambda _: bytes(OCTETS),
}


def test_the_right_encoding_passes() -> None:
    """What the others differ from in one thing each is good, and what a library would sign."""
    text, signature = signed(right)
    assert signature == SIGNER.signature(text.encode())
    assert VERIFIER.verify(f"{text}.{b64(signature)}").subject == payload()["sub"]


@pytest.mark.parametrize("encode", NEARLY.values(), ids=NEARLY)
def test_nearly_right_encodings(encode: Callable[[bytes], bytes]) -> None:
    """Each other encoding is refused, though the digest, where there is one, is right."""
    text, signature = signed(encode)
    with pytest.raises(BadSignature, match="the issuer's"):
        VERIFIER.verify(f"{text}.{b64(signature)}")


def test_a_signature_has_as_many_octets_as_the_modulus() -> None:
    """RFC 8017 §8.2.2: the same number in fewer octets, or in more, and one that differs by the modulus, are second spellings."""
    for number in itertools.count():  # one signature in 256 begins with a zero
        text, signature = signed(right, json.dumps(payload(number=number)))
        if signature[0] == 0:
            break
    assert VERIFIER.verify(f"{text}.{b64(signature)}")
    larger = int.from_bytes(signature, "big") + MODULUS
    for other in (signature[1:], b"\0" + signature, larger.to_bytes(OCTETS + 1, "big"), larger.to_bytes(OCTETS + 1, "big")[1:]):
        with pytest.raises(BadSignature, match="the issuer's"):
            VERIFIER.verify(f"{text}.{b64(other)}")
