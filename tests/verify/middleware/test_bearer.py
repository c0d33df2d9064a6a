"""What a request's path and Authorization headers decide, before any framework comes in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id.verify.bearer import Guard, Refused
from tests.verify.middleware.minted import AUDIENCE, ISSUER, STRANGER, VERIFIER, token


def refused(guard: Guard, *headers: str, path: str = "/") -> Refused:
    """Return the refusal of a request with these Authorization headers."""
    with pytest.raises(Refused) as caught:
        guard.check(path, headers)
    return caught.value


def test_a_good_token_gives_its_claims() -> None:
    """The claims are those of the token; the scheme is case-insensitive and may be followed by several spaces (RFC 6750 §2.1)."""
    for scheme in ("Bearer ", "bearer ", "BEARER   "):
        claims = Guard(VERIFIER).check("/", [scheme + token()])
        assert claims is not None
        assert claims.name == "Alice Demo"
        assert claims.scopes == {"openid", "mail_read"}
        assert claims.groups == {"kiwi_users", "mail_users"}


@pytest.mark.parametrize("headers", [[], [""], ["Basic YTpi"], ["Bearerish x"], ["Negotiate Bearer"]], ids=str)
def test_without_a_token_the_challenge_tells_no_error(headers: list[str]) -> None:
    """RFC 6750 §3.1: a request without a token gets 401 and a bare challenge; credentials of another scheme are no token."""
    answer = refused(Guard(VERIFIER, realm="mail"), *headers)
    assert answer.status == 401
    assert answer.challenge == 'Bearer realm="mail"'
    assert json.loads(answer.body) == {"message": "A bearer token is needed in the Authorization header."}


_MALFORMED = [
    "Bearer",
    "Bearer ",
    "Bearer\tx",
    "Bearer a b",
    "Bearer a,Bearer b",
    "Bearer a, Basic YTpi",
    "Bearer \xe4",
    'Bearer "a"',
    # Two headers that a server has joined (RFC 9110 §5.3), with another scheme first.
    f"Basic YTpi,Bearer {token()}",
    f"Basic YTpi, Bearer {token()}",
    f"basic YTpi==\t,\tbearer {token()}",
    f'Digest username="a, b", realm="c", Bearer {token()}',
    f'Digest username="a", realm="c, Bearer {token()}',
    f"Negotiate, Bearer {token()}",
    f", Bearer {token()}",
    f" ,Bearer {token()}",
    "Basic YTpi, Basic YTpi",
    "Basic YTpi, Negotiate",
    "Basic YTpi,",
    'Digest username="a", Digest username="b"',
]


@pytest.mark.parametrize("value", _MALFORMED)
def test_a_malformed_header_is_an_invalid_request(value: str) -> None:
    """RFC 6750 §3.1: what is not one token is 400 invalid_request, also on a path that lets callers in without one."""
    for path in ("/", "/open"):
        answer = refused(Guard(VERIFIER, optional_paths=["/open"]), value, path=path)
        assert answer.status == 400
        assert 'error="invalid_request"' in answer.challenge


@pytest.mark.parametrize(
    "value",
    [
        "Basic YTpi",
        "Negotiate",
        'Digest username="Mufasa, \\"the\\" king", realm="http-auth@example.org", nc=00000001, qop=auth , opaque="FQhe=="',
        "AWS4-HMAC-SHA256 Credential=AKIA/20130524/us/s3/aws4_request, SignedHeaders=host;range, Signature=fe5f80",
        "",
    ],
)
def test_credentials_of_another_scheme_are_no_token(value: str) -> None:
    """One set of credentials that is none of ours is as good as none, also with commas of its own (RFC 9110 §11.4)."""
    assert Guard(VERIFIER, optional_paths=["/"]).check("/", [value]) is None
    assert refused(Guard(VERIFIER), value).status == 401


@pytest.mark.parametrize("other", [token(), "", "Basic YTpi"])
def test_two_headers_are_refused(other: str) -> None:
    """More than one Authorization header is refused though the first is good: somebody else may read the second."""
    answer = refused(Guard(VERIFIER), f"Bearer {token()}", other)
    assert (answer.status, answer.error) == (400, "invalid_request")


_BAD: dict[str, dict[str, Any]] = {
    "expired": {"exp": int(time.time()) - 60},
    "another issuer": {"iss": "https://id.example.org"},
    "another audience": {"aud": "calendar"},
    "another key": {"key": STRANGER},
}


@pytest.mark.parametrize("why", _BAD)
def test_a_bad_token_is_told_in_words_and_never_repeated(why: str) -> None:
    """401 invalid_token with a description for people; not a part of the token stands in the answer (RFC 6750 §3.1)."""
    bad = token(**_BAD[why])
    answer = refused(Guard(VERIFIER, optional_paths=["/open"]), f"Bearer {bad}", path="/open")
    assert (answer.status, answer.error) == (401, "invalid_token")
    assert answer.challenge.startswith('Bearer realm="Kiwi ID", error="invalid_token", error_description="')
    assert answer.description
    for part in bad.split("."):
        assert part not in answer.challenge + answer.body.decode() + repr(answer)


@given(st.text(alphabet=st.characters(min_codepoint=0, max_codepoint=255), max_size=60))
def test_no_header_breaks_the_answer(value: str) -> None:
    """Whatever the header holds, the caller is refused, and the challenge stays one line of well-formed quoted strings."""
    answer = refused(Guard(VERIFIER), f"Bearer {value}")
    assert answer.status in (400, 401)
    assert answer.challenge.isascii()
    assert answer.challenge.isprintable()
    assert answer.challenge.count('"') % 2 == 0
    assert dict(answer.headers)["content-length"] == str(len(answer.body))


def test_scopes() -> None:
    """All scopes are needed; 403 names all of them, so that a client can ask for a token that will do (RFC 6750 §3.1)."""
    assert Guard(VERIFIER, required_scopes=["mail_read", "openid"]).check("/", [f"Bearer {token()}"])
    answer = refused(Guard(VERIFIER, required_scopes=["mail_send", "mail_read"]), f"Bearer {token()}")
    assert answer.status == 403
    assert answer.challenge.endswith('scope="mail_read mail_send"')
    assert 'error="insufficient_scope"' in answer.challenge


def test_groups() -> None:
    """All groups are needed; the answer does not tell which groups there are."""
    assert Guard(VERIFIER, required_groups=["mail_users", "kiwi_users"]).check("/", [f"Bearer {token()}"])
    answer = refused(Guard(VERIFIER, required_groups=["mail_users", "mail_admins"]), f"Bearer {token()}")
    assert (answer.status, answer.error) == (403, "insufficient_scope")
    assert "scope=" not in answer.challenge
    assert "mail_admins" not in answer.challenge + answer.body.decode()


def test_optional_and_anonymous_paths() -> None:
    """On an optional path no token is None and a token is held to everything; on an anonymous one nothing is looked at."""
    guard = Guard(VERIFIER, required_scopes=["mail_read"], optional_paths=["/start"], anonymous_paths=["/health", "/static/*"])
    assert guard.check("/start", []) is None
    claims = guard.check("/start", [f"Bearer {token()}"])
    assert claims
    assert claims.client_id == AUDIENCE
    assert claims.issuer == ISSUER
    assert refused(guard, f"Bearer {token(scope='openid')}", path="/start").status == 403
    for path in ("/health", "/static/a", "/static/a/b.css", "/static/..a"):
        assert guard.check(path, ["Bearer nonsense"]) is None


_ALIKE = ["", "/static", "/staticx", "/x/static/a", "/Health", "/health/", "/health/x", "//health"]
_CLIMBING = ["/static/../mail", "/static/..", "/static/./../mail", "/static/a\\..\\mail", "/static/..;/mail"]


@pytest.mark.parametrize("path", _ALIKE + _CLIMBING)
def test_paths_that_only_look_alike_need_a_token(path: str) -> None:
    """What is not exactly a named path, or could be read as another one by somebody behind, lets nobody in."""
    assert refused(Guard(VERIFIER, anonymous_paths=["/health", "/static/*"]), path=path).status == 401


@pytest.mark.parametrize(
    "demands",
    [
        {"required_scopes": "mail_read"},
        {"required_scopes": ["mail_read mail_send"]},
        {"required_scopes": ['a"b']},
        {"required_groups": "mail_users"},
        {"required_groups": [""]},
        {"optional_paths": "/start"},
        {"optional_paths": ["start"]},
        {"anonymous_paths": ["/*/health"]},
        {"anonymous_paths": ["/static*"]},
        {"anonymous_paths": ["/static/../x"]},
        {"realm": 'a"b'},
    ],
    ids=str,
)
def test_demands_that_could_never_be_right_are_refused_at_once(demands: Any) -> None:
    """A text where a list belongs, or a name that is none, fails when the guard is made, not at the first request."""
    (name,) = demands
    with pytest.raises(ValueError, match=rf"^{name}: "):
        Guard(VERIFIER, **demands)


def test_the_middlewares_load_no_framework() -> None:
    """asgi and wsgi are for services of any kind: what they load beside the standard library is what checking needs."""
    program = "import kiwi_id.verify.asgi, kiwi_id.verify.wsgi, sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    others = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert {"kiwi_id", "cryptography"} <= others
    assert not others & {
        "trio",
        "anyio",
        "starlette",
        "fastapi",
        "quart",
        "flask",
        "werkzeug",
        "django",
        "hypercorn",
        "httpx",
        "jwt",
    }
