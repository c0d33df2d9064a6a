"""What is wrong with a token: a small tree, so that a service can tell an expired token from a forged one; and with keys.

No message holds the token. What a message quotes of it is a name from its header or claims, shortened and escaped.
"""

from __future__ import annotations

from datetime import timedelta


class TokenError(Exception):
    """A token that must not be accepted. All of its kinds are answered alike: 401, ``invalid_token`` (RFC 6750 §3.1)."""


class MalformedToken(TokenError):
    """Not a token in the form that RFC 7515 §7.1 and RFC 9068 §2 give it: nothing that an issuer made by mistake passes, either."""


class BadSignature(TokenError):
    """Changed, or made by somebody else: no key of ours signed this, or not with the algorithm that the key is for."""


class UnknownKey(TokenError):
    """Signed with a key that is not among those given: an old one, a very new one, or another issuer's."""


class WrongType(TokenError):
    """A token of another kind: an ID token, say, where an access token is wanted (RFC 8725 §3.11)."""


class WrongIssuer(TokenError):
    """Rightly signed, but its ``iss`` is not the issuer that is trusted here."""


class WrongAudience(TokenError):
    """Rightly signed, but made for another service (RFC 8725 §3.9)."""


class ExpiredToken(TokenError):
    """Was good until ``by`` ago; a client refreshes and tries again."""

    def __init__(self, by: timedelta) -> None:
        super().__init__(by)
        self.by = by

    def __str__(self) -> str:
        return f"the token expired {_seconds(self.by)} ago"


class NotYetValid(TokenError):
    """Will be good in ``by``, if at all; most often a clock of the two is wrong."""

    def __init__(self, by: timedelta) -> None:
        super().__init__(by)
        self.by = by

    def __str__(self) -> str:
        return f"the token is valid only in {_seconds(self.by)}; is the clock right?"


class KeysError(Exception):
    """Keys that cannot be used: no such file, no key in it, a private or weak one. The configuration's mistake, no token's."""


def quoted(value: object) -> str:
    """Return a value of a token for a message: in ASCII, escaped, and short."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _seconds(span: timedelta) -> str:
    whole = span.total_seconds()
    return f"{whole:.1f} s" if whole < 10 else str(timedelta(seconds=int(whole)))
