"""Where a browser may be sent back to, and what is refused in a configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiwi_id import config
from kiwi_id.errors import ConfigError
from kiwi_id.forward_auth.rules import LONGEST_RETURN, Rules, split_address

RULES = Rules(
    client_id="fa",
    secret=None,
    hosts=frozenset({"wiki.example.com", "files.example.com:8443"}),
    domain="",
    recheck=300.0,
    lifetime=3600.0,
    audiences=frozenset({"fa"}),
    issuer="https://id.example.com",
)
SHARED = replace(RULES, domain="example.com")
# Pieces of which tricky addresses are made.
PIECES = st.sampled_from(
    rb"https:// http:// // / \ @ : 443 8443 ? # %2f %0d%0a . .. a javascript: /auth/logout [::1]".split()
    + b"wiki.example.com files.example.com:8443 WIKI.example.com evil.example".split()
    + [b"\r\n", b"\t", b" ", b"\x00", b"\x80", "ü".encode()]
)


@given(sent=st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=8).map(b"".join)), host=st.sampled_from(["", *RULES.hosts]))
def test_a_login_returns_to_a_configured_host_or_nowhere(sent: bytes, host: str) -> None:
    """Whatever is asked for: what comes out is https, a configured host (the given one), and characters that have one reading."""
    back = RULES.return_address(sent, host)
    if back is None:
        return
    assert re.fullmatch(r"https://[a-z0-9.:-]+/[!-~]*", back)
    assert not set(back) & set('\\"<>#@ ') - {"@"}
    parts = urlsplit(back)
    assert parts.netloc in RULES.hosts
    assert not host or parts.netloc == host
    assert "@" not in parts.netloc


@given(path=st.from_regex(r"/[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*", fullmatch=True))
def test_a_plain_path_comes_back_as_it_is(path: str) -> None:
    """Nothing is decoded, encoded or normalised: the application gets the very address that the browser asked for."""
    back = RULES.return_address(b"https://wiki.example.com" + path.encode())
    own = path.partition("?")[0] in ("/auth/login", "/auth/callback", "/auth/logout", "/auth/verify")
    assert back == "https://wiki.example.com" + (path if len(path) <= LONGEST_RETURN and not own else "/")


@pytest.mark.parametrize(
    ("sent", "back"),
    [
        (b"https://wiki.example.com", "https://wiki.example.com/"),
        (b"https://wiki.example.com:443/x", "https://wiki.example.com/x"),
        (b"http://WIKI.example.com/x", "https://wiki.example.com/x"),
        (b"https://files.example.com:8443/?a=b&c", "https://files.example.com:8443/?a=b&c"),
        (b"https://wiki.example.com//evil.example/", "https://wiki.example.com//evil.example/"),
        (b"https://wiki.example.com/a\\b", "https://wiki.example.com/"),
        (b"https://wiki.example.com/" + b"a" * LONGEST_RETURN, "https://wiki.example.com/"),
        (b"https://wiki.example.com/auth/logout?x", "https://wiki.example.com/"),
        (b"https://wiki.example.com:8443/", None),
        (b"https://files.example.com/", None),
        (b"https://evil.example/", None),
        (b"https://wiki.example.com.evil.example/", None),
        (b"https://wiki.example.com@evil.example/", None),
        (b"https://evil.example\\@wiki.example.com/", None),
        (b"https://wiki.example.com\r\nset-cookie:x/", None),
        (b"//wiki.example.com/", None),
        (b"/x", None),
        (b"wiki.example.com", None),
        (b"", None),
    ],
)
def test_return_addresses(sent: bytes, back: str | None) -> None:
    """The cases by which redirects have been opened before."""
    assert RULES.return_address(sent) == back


def test_with_a_cookie_for_each_host_a_login_returns_to_its_own_host() -> None:
    """A path belongs to the host that is asked, and another configured host is refused: its cookie could not be set from there."""
    assert RULES.return_address(b"/x?y", "wiki.example.com") == "https://wiki.example.com/x?y"
    assert RULES.return_address(b"//evil.example/", "wiki.example.com") is None
    assert RULES.return_address(b"https://files.example.com:8443/", "wiki.example.com") is None


def test_with_one_cookie_for_all_the_paths_are_the_applications() -> None:
    """An application may have an /auth/login of its own there; only the issuer's host has ours."""
    assert SHARED.return_address(b"https://wiki.example.com/auth/login?x") == "https://wiki.example.com/auth/login?x"
    assert SHARED.return_address(b"https://id.example.com/auth/logout") is None


def test_where_login_and_callback_are_served() -> None:
    """At each configured host, or, with one cookie for all, at the issuer's only."""
    assert RULES.own_host(b"WIKI.example.com:443") == "wiki.example.com"
    assert RULES.own_host(b"id.example.com") is None
    assert RULES.place("files.example.com:8443") == "https://files.example.com:8443"
    assert SHARED.own_host(b"id.example.com") == "id.example.com"
    assert SHARED.own_host(b"wiki.example.com") is None
    assert SHARED.place("wiki.example.com") == "https://id.example.com"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (b"https://a.example/x?y", ("a.example", b"/x?y")),
        (b"http://A.example:443", ("a.example", b"/")),
        (b"https://a.example?x", None),
        (b"https://u@a.example/", None),
        (b"https:///x", None),
        (b"ftp://a.example/", None),
    ],
)
def test_addresses_of_proxies(url: bytes, found: tuple[str, bytes] | None) -> None:
    """An address is split at its host; one that could be split in two ways is none."""
    assert split_address(url) == found


# -- the configuration ------------------------------------------------------------------------------------------------------------

GOOD = """\
trusted_proxies = ["10.0.0.1"]
forward_auth_client = "fa"
forward_auth_hosts = ["Wiki.example.com:443", "files.example.com:8443"]
"""


def test_a_configuration_becomes_rules() -> None:
    """Hosts are spelt as browsers send them, and the client's own tokens are always good."""
    rules = Rules.of(config.parse(GOOD + 'forward_auth_audiences = ["backup"]', Path("/c.toml")), "https://id.example.com")
    assert rules == replace(RULES, lifetime=43200.0, audiences=frozenset({"fa", "backup"}))
    assert "fa" not in repr(replace(RULES, client_id="x", secret="fa", audiences=frozenset()))


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        (
            'forward_auth_client = "fa"\ntrusted_proxies = ["10.0.0.1"]',
            "forward_auth_client",
            "a client, and no forward_auth_hosts",
        ),
        ('forward_auth_client = "fa"\nforward_auth_hosts = ["a.b"]', "forward_auth_client", "a client, and no trusted_proxies"),
        ('forward_auth_hosts = ["a.b"]', "forward_auth_hosts", "hosts, and no client"),
        (
            GOOD.replace(', "files.example.com:8443"', "") + 'forward_auth_domain = "example.org"',
            "forward_auth_hosts",
            "wiki.example.com, which is not below example.org",
        ),
        (GOOD + 'forward_auth_domain = "com"', "forward_auth_domain", '"com" (string)'),
        (GOOD + 'forward_auth_domain = "10.0.0.1"', "forward_auth_domain", '"10.0.0.1" (string)'),
        ('forward_auth_hosts = ["https://a.b/"]', "forward_auth_hosts", '"https://a.b/" (string)'),
        ('forward_auth_hosts = ["*.a.b"]', "forward_auth_hosts", '"*.a.b" (string)'),
        ('forward_auth_hosts = "a.b"', "forward_auth_hosts", '"a.b" (string)'),
        ('forward_auth_client = "a b"', "forward_auth_client", '"a b" (string)'),
        ('forward_auth_audiences = [""]', "forward_auth_audiences", '"" (string)'),
        ('forward_auth_recheck = "1s"', "forward_auth_recheck", '"1s" (string)'),
        ('forward_auth_lifetime = "400d"', "forward_auth_lifetime", '"400d" (string)'),
    ],
)
def test_what_config_toml_may_not_say(text: str, key: str, found: str) -> None:
    """Each mistake is told by its key."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, Path("/c.toml"))
    assert [(problem.key, problem.found) for problem in caught.value.problems] == [(key, found)]


def test_an_issuer_outside_the_domain_is_refused() -> None:
    """Its callback could not set the cookie."""
    parsed = config.parse(GOOD + 'forward_auth_domain = "example.com"', Path("/c.toml"))
    assert Rules.of(parsed, "https://id.example.com").domain == "example.com"
    with pytest.raises(ConfigError, match="forward_auth_domain"):
        Rules.of(parsed, "https://id.example.org")


@pytest.mark.parametrize(
    ("content", "mode", "found"),
    [
        ("hidden-word", 0o604, "every user can read"),
        ("", 0o600, "nothing that is a secret"),
        ("a b", 0o600, "nothing that is a secret"),
        ("sha256:" + "0" * 64, 0o600, "the hash of a chosen secret"),
        (None, 0o600, "No such file"),
    ],
    ids=range(5),
)
def test_the_secret_file(tmp_path: Path, content: str | None, mode: int, found: str) -> None:
    """A secret that others can read, or that is none, is told by its file, without being shown."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    parsed = config.parse(GOOD + f'forward_auth_secret_file = "{file}"', Path("/c.toml"))
    with pytest.raises(ConfigError, match=found) as caught:
        Rules.of(parsed, "https://id.example.com")
    assert str(file) in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_a_good_secret_file(tmp_path: Path) -> None:
    """The secret is what the file holds without its last line break."""
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    file.chmod(0o640)
    parsed = config.parse(GOOD + f'forward_auth_secret_file = "{file}"', Path("/c.toml"))
    assert Rules.of(parsed, "https://id.example.com").secret == "s3cret"
