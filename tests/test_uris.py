"""URIs that Kiwi ID itself posts to: what config.toml takes, and that the HTTP client can use all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kiwi_id import config
from kiwi_id.errors import ConfigError
from kiwi_id.uris import optional_endpoint
from kiwi_id.values import Refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://mail.example.com/logout",
        "https://mail.example.com",
        "https://Mail.example.com:8443/a/b;c=d?tenant=7&x=%C3%BC",
        "https://10.10.20.21:8443/logout",
        "https://[fd00:20::21]/logout",
        "https://my_service/logout",
        "https://xn--bcher-kva.example/logout",
        "http://localhost:3000/logout",
        "http://app.localhost/logout",
        "http://127.8.9.1/logout",
        "http://[::1]:3000/logout",
    ],
)
def test_what_is_taken(text: str) -> None:
    """https anywhere, http on the loopback; names, addresses, ports, paths and queries, as they are."""
    assert optional_endpoint(text) == text


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("https://a..b/", "one dot"),
        ("https://.a/", "one dot"),
        ("https://a./", "one dot"),
        ("https://-a/", "one dot"),
        ("https://a-/", "one dot"),
        ("https://" + "a" * 64 + "/", "1 to 63"),
        ("https://" + "a.b." * 63 + "ab/", "1 to 63"),
        ("https://xn--/x", "one dot"),
        ("https://xn--a-ecp.example/", "punycode"),
        ("https://xn--\u00fc/", ""),
        ("https://1.2.3/", "4 octets"),
        ("https://1.2.3.256/", "256"),
        ("https://[::g]/", ""),
        ("https://[1:2]/", "At least"),
        ("https://[fe80::1%eth0]/", ""),
        ("https://[::1/", ""),
        ("https://a:0/", "1 to 65535"),
        ("https://a:65536/", "1 to 65535"),
        ("https://a:/", ""),
        ("https://a:x/", ""),
        ("https:///x", ""),
        ("https:/a", ""),
        ("//a/", ""),
        ("https://user:geheim@a/", ""),
        ("https://geheim@a/", ""),
        ("https://a/#x", ""),
        ("https://a/#", ""),
        ("https://a/%zz", ""),
        ("https://a/ b", ""),
        ("https://a/\n", ""),
        ("https://a/\\b", ""),
        ("https://b\u00fccher.example/", ""),
        ("http://mail.example.com/", "https"),
        ("http://10.10.20.21/", "https"),
        ("http://localhost.example.com/", "https"),
        ("com.example.app:/logout", ""),
        ("javascript:alert(1)", ""),
        (7, ""),
        (["https://a/"], ""),
    ],
)
def test_what_is_refused(value: Any, word: str) -> None:
    """By its grammar, each with a word of what is allowed; a password in it is not repeated."""
    with pytest.raises(Refused) as caught:
        optional_endpoint(value)
    assert "https URL" in caught.value.allowed
    assert word in caught.value.fix
    assert "geheim" not in str(caught.value)


def test_the_config_tells_it_with_its_line() -> None:
    """As any other mistake: where, what, what is allowed."""
    with pytest.raises(ConfigError) as caught:
        config.parse('[clients.mail]\nbackchannel_logout_uri = "https://xn--/x"\n', Path("/etc/kiwi/config.toml"))
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == ("/etc/kiwi/config.toml:2", "clients.mail.backchannel_logout_uri")
    assert "http only for localhost" in problem.allowed


@given(st.from_regex(r"\Ahttps?://[a-z0-9.:\[\]_-]{1,20}(/[!-~]{0,8})?\Z") | st.text(max_size=30))
@example("https://xn--a/")
def test_what_is_taken_can_be_used(text: str) -> None:
    """Nothing passes that the HTTP client cannot make a request of; and nothing but Refused comes out."""
    try:
        taken = optional_endpoint(text)
    except Refused:
        return
    if taken:
        request = httpx.Request("POST", taken)
        assert request.url.host
        assert request.url.raw_host
        assert request.headers["host"]
