"""The TLS pin: a connection to kanidmd is good when it presents the very certificate that server.toml names, and no other.

Loopback certificates have no authority behind them, and ``verify=False`` would let any local process that wins a race for the
port read every password. An exact match needs neither authority nor host name.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance.files import read_file

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL (x509_vfy.h), which Python has no name for. The date of a pinned certificate says nothing
# about who holds its key, and an expired file on the loopback must not end every login; 'kiwi-id check' tells about it.
_NO_CHECK_TIME = 0x200000


class PinMismatch(ssl.SSLCertVerificationError):
    """What answered on the upstream address is not the kanidmd that server.toml describes."""


class UpstreamPin:
    """The pinned chain of kanidmd; ``reload`` takes a renewed file, and the certificate before it stays good until the next."""

    def __init__(self, chain: Path) -> None:
        self._chain = chain
        self._leaves: tuple[bytes, ...] = ()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.reload(chain)

    def prepare(self, chain: Path) -> Callable[[], None]:
        """Read the chain anew (it may be another file) and return the function that puts it in force. Raises ConfigError."""
        try:
            leaf = ssl.PEM_cert_to_DER_cert(read_chain(chain)[0])
        except ValueError:  # base64 that is none, which OpenSSL has not seen yet
            fix = "Restore the file, or remove it and run 'kiwi-id init'."
            problem = Problem(str(chain), "", "a first certificate that cannot be read", "PEM certificates", fix)
            raise ConfigError([problem]) from None
        # kanidmd changes its certificate some moments after us, or refuses to: until then the old one is still presented.
        leaves = (leaf, *(old for old in self._leaves[:1] if old != leaf))
        context = client_context(chain, extra=leaves)

        def apply() -> None:
            self._chain, self._leaves, self.context = chain, leaves, context

        return apply

    def reload(self, chain: Path) -> None:
        """Prepare and apply at once. Raises ConfigError; the pin then stays as it was."""
        self.prepare(chain)()

    def check(self, connection: ssl.SSLSocket | None) -> None:
        """Check a connection after its handshake. Raises PinMismatch."""
        if connection is None or connection.getpeercert(binary_form=True) not in self._leaves:
            raise PinMismatch(f"the certificate presented is not the first one of {self._chain}")


def read_chain(chain: Path) -> list[str]:
    """Return the PEM certificates of ``chain``, leaf first. Raises ConfigError when there is none to read."""
    allowed = "a PEM file with kanidmd's certificate first"
    try:
        pems = _PEM.findall(read_file(chain).decode("ascii", errors="replace"))
    except OSError as error:
        raise ConfigError([Problem(str(chain), "", error.strerror or str(error), allowed, "")]) from None
    if not pems:
        fix = "Name the certificate chain in server.toml (tls_chain), or run 'kiwi-id init'."
        raise ConfigError([Problem(str(chain), "", "no certificate", allowed, fix)])
    return pems


def client_context(chain: Path, *, extra: tuple[bytes, ...] = ()) -> ssl.SSLContext:
    """Return a client context that trusts the certificates of ``chain`` (and ``extra``, DER) and nothing else.

    Host names are not checked: the certificate is. Raises ConfigError when the chain cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata="\n".join(read_chain(chain)))
        for der in extra:
            context.load_verify_locations(cadata=der)
    except ssl.SSLError as error:
        found = f"certificates that OpenSSL cannot read ({error.reason})"
        raise ConfigError([Problem(str(chain), "", found, "PEM certificates", "")]) from None
    return context
