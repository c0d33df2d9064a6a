"""redaction.py: what is taken out of kanidmd's lines, a batch at a time, is what is taken out of each line by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.redaction import redact, redact_lines

_WORDS = [
    *("password", "Passwd", "SECRET", "token", "code_verifier", "Cookie", "Authorization", "bearer", "totp", "code", "status_code"),
    *("eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "eyJ", "gAAAAABmAAAAAAAAAAAAAAAAAAAAAA==", "Some(", "String(", "Basic ", "Bearer "),
    *(
        "?",
        "?state=",
        "=",
        ":",
        '"',
        "'",
        " ",
        "\t",
        "\u00a0",
        "\x1d",
        "\x85",
        "|",
        ",",
        "]",
        "┝━ ｉ",
        "é",
        "_",
        "\r",
        "\\",
        "\x00",
    ),
    *("abcd", "x" * 20, "hunter2-and-more", "uri: /oauth2/token", "INFO"),
]
_LINES = st.lists(st.lists(st.sampled_from(_WORDS) | st.text(st.characters(blacklist_characters="\nſK"), max_size=4)).map("".join))


@given(_LINES)
def test_a_batch_is_redacted_as_its_lines_are(lines: list[str]) -> None:
    """Only where looking for words tells that a pattern can find nothing is it not run: the result is the same."""
    found = redact_lines([line.encode("utf-8", "surrogatepass") for line in lines])
    readable = [line.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for line in lines]
    assert found == ([redact(line.rstrip()) for line in readable] or [""])


def test_each_line_of_a_batch_loses_what_is_its_own() -> None:
    """Values behind names in any case, queries, JWTs and Fernet tokens; what only looks like one stays."""
    lines = {
        "a GET /oauth2/authorise?client_id=x&state=SECRET HTTP/1.1": "a GET /oauth2/authorise?[redacted] HTTP/1.1",
        'b PassWord: Some("SECRET with spaces") | c': "b PassWord: [redacted]) | c",
        "c A valid session value exists for this token | event_tag_id: 10": None,
        "d Begin(Password) | issue: Cookie | status_code: 303 | why?": None,
        "e Authorization: Bearer SECRETSECRET": "e Authorization: [redacted]",
        "f eyJhbGciOiJFUzI1NiJ9.SECRET.SECRET was refused": "f [token] was refused",
        "g gAAAAABmSECRETSECRETSECRET== was refused": "g [token] was refused",
        "h code=SECRETSECRETSECRET, code: 13": "h code=[redacted], code: 13",
        "i first token, then token\u00a0= SECRET": "i first token, then token\u00a0= [redacted]",
    }
    assert redact_lines([line.encode() for line in lines]) == [after or line for line, after in lines.items()]
