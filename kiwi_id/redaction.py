"""Secrets taken out of what others print: kanidmd's lines, tracebacks, messages of libraries.

What kanidmd prints holds whole URIs with the OAuth2 query (server/core/src/https/trace.rs), and at debug level more still. It
prints some forty lines for a login, so looking at them must cost next to nothing: words are looked for in a whole batch at once,
and the patterns see only the lines in which they may find something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NAMES = ("password", "passwd", "secret", "token", "code_verifier", "cookie", "authorization", "bearer", "totp")
# What may stand between such a name and its value: wider than in the patterns, since bytes know no other spaces than ASCII's.
_ASSIGNED = re.compile(rb"\"?[^!-~\n]*[=:]")


@dataclass(frozen=True)
class _Secret:
    """A pattern; in lower case one of ``words`` stands in what it finds, as a word of its own if ``behind`` must follow."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]
    behind: re.Pattern[bytes] | None = None

    def lines(self, lowered: bytes) -> Iterator[int]:
        """Return the numbers of the lines of ``lowered``, in lower case, in which something may be found."""
        for word in (word.encode() for word in self.words):
            at = lowered.find(word)
            while at >= 0:
                if self._begins(lowered, at, at + len(word)):
                    yield lowered.count(b"\n", 0, at)
                    at = lowered.find(b"\n", at)  # one is enough in each line
                    if at < 0:
                        break
                at = lowered.find(word, at + 1)

    def _begins(self, lowered: bytes, start: int, end: int) -> bool:
        if self.behind is None:
            return True
        # As \b and \w see it; bytes beyond ASCII may be a letter, which the pattern will know.
        before = lowered[start - 1 : start]
        return not (before.isalnum() or before == b"_") and self.behind.match(lowered, end) is not None


# The first two take a whole run of characters, possessively, and look at it then: a client can have kanidmd print a URI of
# thousands of question marks, and a pattern that begins anew at each of them would hold up every login for a tenth of a second.
_SECRETS = [
    _Secret(("?",), re.compile(r"\?[^\s\"'<>|]++"), lambda run: "?[redacted]" if "=" in run[0] else run[0]),
    _Secret(("eyj",), re.compile(r"\beyJ[\w-]{8,}+(?:\.[\w-]*+)*+"), lambda run: "[token]" if "." in run[0] else run[0]),
    _Secret(("gaaaa",), re.compile(r"\bgAAAA[\w-]{20,}=*"), "[token]"),
    _Secret(
        _NAMES,
        re.compile(
            rf"(?i)\b({'|'.join(_NAMES)})"
            # Rust wraps values, as in Some("…") or String("…"), and a quoted one may hold anything, spaces as well.
            r"(\"?\s*[=:]\s*)(?:\w+\()*(?:(?:bearer|basic)\s+)?(?:\"(?:[^\"\\]|\\.)*\"|\"?[^\s\",;)}|]{4,})"
        ),
        r"\1\2[redacted]",
        _ASSIGNED,
    ),
    # A short "code: 13" is an error's number, not an authorization code.
    _Secret(("code",), re.compile(r"(?i)\b(code)(\"?\s*[=:]\s*)(?:\w+\()*\"?[^\s\",;)}|]{16,}"), r"\1\2[redacted]", _ASSIGNED),
]


def redact(text: str) -> str:
    """Return ``text`` without query strings, JWTs, Fernet tokens and values that stand behind a secret's name."""
    lowered = text.lower()
    for secret in _SECRETS:
        if any(word in lowered for word in secret.words):
            text = secret.pattern.sub(secret.replacement, text)
    return text


def redact_lines(lines: list[bytes]) -> list[str]:
    """Return the lines, each without what :func:`redact` takes out and without what is blank at its end."""
    block = b"\n".join(lines)
    texts = [text.rstrip() for text in block.decode("utf-8", "replace").split("\n")]
    lowered = block.lower()
    for secret in _SECRETS:
        for number in set(secret.lines(lowered)):
            texts[number] = secret.pattern.sub(secret.replacement, texts[number])
    return texts
