"""issuer/http.py: what is read from requests, strictly, and what pages and errors hold."""

from __future__ import annotations

import base64
import json

import pytest

from kiwi_id.issuer import http
from kiwi_id.issuer.http import OAuthError, Request
from tests.issuer.unit.issuer import basic, header

FORM = (b"content-type", b"application/x-www-form-urlencoded")


def request(method: str = "GET", query: bytes = b"", body: bytes = b"", *headers: tuple[bytes, bytes]) -> Request:
    """Return a request."""
    return Request(method, "/oauth2/token", query, list(headers), body, "192.0.2.1", b"req")


def test_parameters_come_from_the_query_of_a_get_and_the_body_of_a_post() -> None:
    """RFC 6749 §3.1, §3.2: never from both, so that a query cannot override a form."""
    assert request("GET", b"a=1", b"a=2").parameters() == {"a": "1"}
    assert request("POST", b"a=1", b"a=2&b=%C3%A9+x", FORM).parameters() == {"a": "2", "b": "é x"}
    assert request("POST", b"", b"a=1", (FORM[0], FORM[1].upper() + b"; charset=utf-8")).parameters() == {"a": "1"}


@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/form-data; boundary=x", b"text/plain", b"\xff"])
def test_another_content_type_is_refused(kind: bytes) -> None:
    """A body in another form is not guessed at."""
    with pytest.raises(OAuthError, match=r"must be application/x-www-form-urlencoded"):
        request("POST", b"", b"a=1", (b"content-type", kind)).parameters()


def test_empty_values_count_as_absent_and_a_repeated_name_is_refused() -> None:
    """RFC 6749 §3.1: a parameter without a value is omitted; none may be there more than once, not even empty."""
    assert http.parse_form(b"a=&b=1&c") == {"b": "1"}
    for repeated in (b"a=1&a=1", b"a=&a=1", b"a=1&%61=2"):
        with pytest.raises(OAuthError, match="'a' is there more than once"):
            http.parse_form(repeated)


@pytest.mark.parametrize("junk", [b"a=\xff", b"a=%ff", b"a=%ED%A0%80", b"%80=1", b"&".join(b"p%d=1" % n for n in range(101))])
def test_what_is_no_utf8_or_far_too_much_is_refused(junk: bytes) -> None:
    """Bytes and percent-escapes that are not UTF-8 (lone surrogates among them), and more parameters than anybody needs."""
    with pytest.raises(OAuthError, match="not form-encoded UTF-8, or there are too many"):
        http.parse_form(junk)


def test_basic_credentials_are_form_decoded() -> None:
    """RFC 6749 §2.3.1: both halves are form-encoded; a colon, a percent sign or an accent in the secret survives."""
    found = http.credentials(request("POST", b"", b"", (b"authorization", basic("the app", "a:b%c+d é").encode())), {})
    assert found is not None
    assert (found.client_id, found.secret, found.basic) == ("the app", "a:b%c+d é", True)
    assert "a:b" not in repr(found)


def test_the_scheme_has_no_case_and_a_missing_colon_means_an_empty_secret() -> None:
    """RFC 9110 §11.1; and "no secret" in Basic is a wrong one, not a public client."""
    found = http.credentials(request("POST", b"", b"", (b"authorization", b"bAsIc " + base64.b64encode(b"app"))), {})
    assert found is not None
    assert (found.client_id, found.secret) == ("app", "")


@pytest.mark.parametrize("junk", [b"Basic !!!", b"Basic YQ", b"Basic /////w==", b"Basic " + base64.b64encode(b"\xff:x")])
def test_unreadable_basic_credentials(junk: bytes) -> None:
    """Cut off, not base64, not UTF-8: invalid_client with 401."""
    with pytest.raises(OAuthError) as caught:
        http.credentials(request("POST", b"", b"", (b"authorization", junk)), {})
    assert (caught.value.error, caught.value.status) == ("invalid_client", 401)


def test_one_way_of_authenticating_only() -> None:
    """RFC 6749 §2.3: a client MUST NOT use more than one method in a request; nor name another client beside the header."""
    with_header = request("POST", b"", b"", (b"authorization", basic("app", "x").encode()))
    for form in ({"client_secret": "x"}, {"client_id": "other"}):
        with pytest.raises(OAuthError) as caught:
            http.credentials(with_header, form)
        assert caught.value.error == "invalid_request"
    twice = request("POST", b"", b"", *[(b"authorization", basic("app", secret).encode()) for secret in ("x", "y")])
    with pytest.raises(OAuthError, match="more than once"):
        http.credentials(twice, {})
    assert http.credentials(with_header, {"client_id": "app"}) is not None


def test_credentials_in_the_form_and_none() -> None:
    """client_secret_post, a public client, and a request that names nobody; another scheme is not ours."""
    found = http.credentials(request("POST"), {"client_id": "a", "client_secret": "s"})
    assert found is not None
    assert (found.secret, found.basic) == ("s", False)
    public = http.credentials(request("POST"), {"client_id": "a"})
    assert public is not None
    assert public.secret is None
    assert http.credentials(request("POST", b"", b"", (b"authorization", b"Bearer x")), {}) is None


def test_cookies() -> None:
    """The first of a name counts; odd bytes come through as they are; a name that only begins alike is another one."""
    sent = request("GET", b"", b"", (b"cookie", b"bearerx=no; bearer=a=b; bearer=c"), (b"cookie", b"z=\xff\x00"))
    assert (sent.cookie("bearer"), sent.cookie("z"), sent.cookie("none")) == ("a=b", "\xff\x00", "")


def test_shown_is_safe_in_error_description() -> None:
    """RFC 6749 §5.2: printable ASCII without quote and backslash; and short."""
    assert http.shown('a"b\\c\r\nd\x00é' + "x" * 200) == "abcd" + "x" * 76


def test_error_bodies() -> None:
    """RFC 6749 §5.2: JSON, no-store, and the challenge with a 401 only."""
    answer = http.error_response(OAuthError("invalid_client", "No.", status=401))
    assert json.loads(answer.body) == {"error": "invalid_client", "error_description": "No."}
    assert header(answer, "www-authenticate") == 'Basic realm="Kiwi ID", charset="UTF-8"'
    assert (header(answer, "cache-control"), header(answer, "pragma")) == ("no-store", "no-cache")
    assert header(answer, "x-content-type-options") == "nosniff"
    assert header(http.error_response(OAuthError("invalid_grant", "No.")), "www-authenticate") == ""


def test_bearer_challenges() -> None:
    """RFC 6750 §3: no error code for a request without a token; the code and words for one with a bad one."""
    assert header(http.bearer_challenge("", "x"), "www-authenticate") == 'Bearer realm="Kiwi ID"'
    told = header(http.bearer_challenge("invalid_token", "Over."), "www-authenticate")
    assert told == 'Bearer realm="Kiwi ID", error="invalid_token", error_description="Over."'


def test_pages_escape_and_load_nothing() -> None:
    """A title is text; no script, frame, form or referrer leaves the page."""
    answer = http.page(400, "<script>x</script>", "<p>ok</p>")
    text = answer.body.decode()
    assert "<script>" not in text
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    policy = header(answer, "content-security-policy")
    for rule in ("default-src 'none'", "script-src 'none'", "form-action 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert (header(answer, "x-frame-options"), header(answer, "cache-control")) == ("DENY", "no-store")
    assert header(answer, "referrer-policy") == "no-referrer"
    assert header(answer, "x-content-type-options") == "nosniff"


def test_redirects_change_to_get_and_are_not_kept() -> None:
    """RFC 9700 §4.12: 303, so that no posted password travels on; no cache, no referrer."""
    answer = http.redirect("https://a.example/")
    assert (answer.status, header(answer, "location")) == (303, "https://a.example/")
    assert (header(answer, "cache-control"), header(answer, "referrer-policy")) == ("no-store", "no-referrer")
