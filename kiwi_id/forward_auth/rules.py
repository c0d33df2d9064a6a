"""What is fixed for forward-auth: its client, hosts and cookies; and where a browser may be sent back to.

Addresses are taken apart here and nowhere else. A return address is always put together anew from a configured host and a path of
plain characters, never passed on as it came: so there is nothing in it that a browser could read differently than we do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kiwi_id.config_keys import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.identities.secret_files import is_hash
from kiwi_id.instance.files import read_file

# Each of these is routed to us by its exact path, so that an application keeps whatever else it has below /auth/.
VERIFY, LOGIN, CALLBACK, LOGOUT = "/auth/verify", "/auth/login", "/auth/callback", "/auth/logout"
# Longer ones return to the host's first page: the state must fit beside the rest of the request (issuer.authorize).
LONGEST_RETURN = 1500
SCOPE = "openid profile email groups"

_ADDRESS = re.compile(rb"https?://([A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?)(/[^\r\n]*)?")
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%|^`{}-]*")


@dataclass(frozen=True)
class Rules:
    """The settings of forward-auth, checked together with what they depend on; times in seconds.

    ``issuer`` is the issuer URL. ``domain`` empty: each host has a cookie and a callback of its own; else one cookie serves all
    hosts below, and login and callback are at the issuer's host.
    """

    client_id: str
    secret: str | None = field(repr=False)
    hosts: frozenset[str]
    domain: str
    recheck: float
    lifetime: float
    audiences: frozenset[str]
    issuer: str

    @classmethod
    def of(cls, config: Config, issuer: str) -> Rules:
        """Read them from a config whose ``forward_auth_client`` is set. Raises ConfigError."""
        secret = _read_secret(config.forward_auth_secret_file) if config.forward_auth_secret_file else None
        domain, host = config.forward_auth_domain, urlsplit(issuer).hostname or ""
        if domain and not f".{host}".endswith(f".{domain}"):
            fix = "Leave it empty: each host then has a cookie of its own."
            found = f"{domain}, and the issuer's host {host} is not below it"
            raise ConfigError([Problem(str(config.path), "forward_auth_domain", found, "a domain above the issuer's host", fix)])
        return cls(
            client_id=config.forward_auth_client,
            secret=secret,
            hosts=frozenset(config.forward_auth_hosts),
            domain=domain,
            recheck=config.forward_auth_recheck,
            lifetime=config.forward_auth_lifetime,
            audiences=frozenset({config.forward_auth_client, *config.forward_auth_audiences}),
            issuer=issuer,
        )

    def place(self, host: str) -> str:
        """Return the origin at which a login for ``host`` begins and ends, and to which its login cookie belongs."""
        return f"https://{urlsplit(self.issuer).netloc if self.domain else host}"

    def own_host(self, host: bytes) -> str | None:
        """Return the host that a browser asks for a login, callback or sign-out, or None when these are not served there."""
        name = plain_host(host)
        if self.domain:
            return name if name == plain_host(urlsplit(self.issuer).netloc.encode()) else None
        return name if name in self.hosts else None

    def return_address(self, sent: bytes, host: str = "") -> str | None:
        """Return the address that ``sent`` names, or None when its host is not ours to return to.

        ``host`` is where a mere path belongs and, when given, the only host that is allowed. What is odd about the path, or too
        long, leads to the host's first page.
        """
        if sent.startswith(b"/") and not sent.startswith(b"//"):
            found, path = host, sent
        else:
            match = _ADDRESS.fullmatch(sent)
            if match is None:
                return None
            found, path = plain_host(match[1]), match[2] or b"/"
        if found not in self.hosts or (host and found != host):
            return None
        return f"https://{found}{self._plain_path(path)}"

    def _plain_path(self, path: bytes) -> str:
        text = path.decode("latin-1")
        # After a login nobody wants to sign out, or to log in; with one cookie for all, the paths at a host are the application's.
        ours = not self.domain and text.partition("?")[0] in (VERIFY, LOGIN, CALLBACK, LOGOUT)
        return text if len(text) <= LONGEST_RETURN and _PLAIN_PATH.fullmatch(text) and not ours else "/"


def plain_host(host: bytes) -> str:
    """Return a host as ``forward_auth_hosts`` spells it."""
    return host.decode("latin-1").lower().removesuffix(":443")


def split_address(url: bytes) -> tuple[str, bytes] | None:
    """Return host and path of an address as a proxy writes it, or None when it is none."""
    match = _ADDRESS.fullmatch(url)
    return None if match is None else (plain_host(match[1]), match[2] or b"/")


def _read_secret(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o007:
            fix = f"chmod 0600 {file}; and give the client a new secret, for this one may be known."
            raise ConfigError([Problem(str(file), "", "a secret that every user can read", "0600 or 0640", fix)])
        secret = read_file(file).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = (error.strerror if isinstance(error, OSError) else None) or "bytes that are not UTF-8"
        fix = "Write it: (umask 077; kiwi-id client secret NAME > FILE)"
        raise ConfigError([Problem(str(file), "", found, "a file with the client's secret", fix)]) from None
    if is_hash(secret):
        fix = "Write the secret itself into a file of its own: forward-auth has to show it."
        raise ConfigError([Problem(str(file), "", "the hash of a chosen secret", "the client's secret", fix)])
    if not secret or not secret.isprintable() or " " in secret:
        raise ConfigError([Problem(str(file), "", "nothing that is a secret", "the client's secret alone", "")])
    return secret
