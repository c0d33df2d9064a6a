"""server.toml: both formats and all versions are read; what would make our part fail is refused; the rest is Kanidm's affair."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from kiwi_id import config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.values import Address

FILE = Path("/opt/upstream/etc/server.toml")
CONFIG = config.parse("", Path("/etc/kiwi/config.toml"))
BASE = """\
domain = "example.com"
origin = "https://id.example.com"
db_path = "/var/lib/upstream/kanidm.db"
tls_chain = "/opt/upstream/etc/chain.pem"
tls_key = "/opt/upstream/etc/key.pem"
"""
FLAT = (
    BASE
    + """\
bindaddress = "127.0.0.1:8443"
ldapbindaddress = "127.0.0.1:3636"
tls_client_ca = "/etc/ca"
role = "WriteReplica"
log_level = "debug"
trust_x_forward_for = true
db_fs_type = "zfs"
db_arc_size = 2048
adminbindpath = "/run/kiwi/kanidmd.sock"
thread_count = 4
maximum_request_size_bytes = 262144
otel_grpc_url = "http://localhost:4317"
[online_backup]
path = "/var/backups"
schedule = "@daily"
versions = 7
enabled = true
[replication]
origin = "repl://a:8444"
bindaddress = "127.0.0.1:8444"
[replication."repl://b:8444"]
type = "mutual-pull"
partner_cert = "M…"
automatic_refresh = true
"""
)
SECOND = (
    'version = "2"\n'
    + BASE
    + """\
bindaddress = ["127.0.0.1:8443", "[::1]:8443"]
ldapbindaddress = ["127.0.0.1:3636"]
migration_path = "/etc/kanidm/migrations.d"
otel_grpc_endpoint = "http://localhost:4317"
[http_client_address_info]
x-forward-for = ["127.0.0.1", "127.0.0.0/8"]
[ldap_client_address_info]
proxy-v2 = ["127.0.0.1"]
[online_backup]
compression = "gzip"
"""
)


def parse(text: str) -> ServerToml:
    """Parse ``text`` as the file at FILE."""
    return server_toml.parse(text, FILE)


def problems(text: str) -> list[Problem]:
    """Return what is refused in ``text``; fail when nothing is."""
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.problems


def keys(found: list[Problem]) -> list[str]:
    """Return the keys that problems are about."""
    return [problem.key for problem in found]


def test_flat_format_with_every_documented_key() -> None:
    """The format of 1.5.0, which all later versions read too."""
    server = parse(FLAT)
    assert (server.version, server.domain, server.origin) == (1, "example.com", "https://id.example.com")
    assert server.db_path == Path("/var/lib/upstream/kanidm.db")
    assert (server.tls_chain.name, server.tls_key.name) == ("chain.pem", "key.pem")
    assert server.bind_addresses == (Address("127.0.0.1", 8443),)
    assert server.admin_socket == Path("/run/kiwi/kanidmd.sock")
    assert (server.forwarded, server.forwarded_from) == ("x-forward-for", None)
    assert server.unknown_keys == ()


def test_second_format_with_every_documented_key() -> None:
    """The format of 1.6 and later: listeners as a list (1.8), trust as a table of networks, 1.11's telemetry key."""
    server = parse(SECOND)
    assert server.version == 2
    assert server.bind_addresses == (Address("127.0.0.1", 8443), Address("::1", 8443))
    assert server.forwarded == "x-forward-for"
    assert server.forwarded_from == (ipaddress.ip_network("127.0.0.1/32"), ipaddress.ip_network("127.0.0.0/8"))
    assert server.unknown_keys == ()


def test_defaults_are_kanidms() -> None:
    """Without the key, Kanidm's own defaults hold, and it believes nobody."""
    server = parse(BASE)
    assert server.bind_addresses == (Address("127.0.0.1", 8443),)
    assert server.admin_socket == Path("/var/run/kanidmd/sock")
    assert server.forwarded == "none"
    assert parse('version = "2"\n' + BASE).forwarded == "none"


@pytest.mark.parametrize(
    ("origin", "normal"),
    [
        ("https://example.com", "https://example.com"),
        ("https://ID.Example.com/", "https://id.example.com"),
        ("https://a.b.example.com:443", "https://a.b.example.com"),
        ("https://id.example.com:8443", "https://id.example.com:8443"),
    ],
)
def test_origin_is_normalised_as_a_browser_writes_it(origin: str, normal: str) -> None:
    """The issuer compares origins, so there is one spelling of each."""
    assert parse(BASE.replace("https://id.example.com", origin)).origin == normal


@pytest.mark.parametrize(
    "origin",
    [
        "http://id.example.com",
        "https://id.example.org",
        "https://notexample.com",
        "https://id.example.com/path",
        "https://id.example.com?x=1",
        "https://127.0.0.1",
        "https://id.example.com:99999",
        "https://[::1",
        "id.example.com",
        "https://",
    ],
)
def test_origin_refused(origin: str) -> None:
    """Not https, not below the domain, with a path: Kanidm would not start, or no passkey would work."""
    (problem,) = problems(BASE.replace("https://id.example.com", origin))
    assert (problem.where, problem.key) == (f"{FILE}:2", "origin")
    assert "https://example.com" in problem.allowed


def test_origin_of_another_type() -> None:
    """A number is told, not tripped over."""
    assert keys(problems(BASE.replace('"https://id.example.com"', "7"))) == ["origin"]


def test_a_password_in_the_origin_is_not_repeated() -> None:
    """Errors end in logs."""
    (problem,) = problems(BASE.replace("https://id", "https://me:geheim@id"))
    assert "geheim" not in str(problem)


@pytest.mark.parametrize("domain", ["", "Example.com", "127.0.0.1", "a_b.com", "-a.com", "a..b", "https://example.com"])
def test_domain_refused(domain: str) -> None:
    """Passkeys are bound to a DNS name in lower case."""
    assert keys(problems(BASE.replace('"example.com"', f'"{domain}"'))) == ["domain"]


def test_all_problems_at_once() -> None:
    """Missing and wrong settings come together, those that are there with their line."""
    found = problems('domain = 7\norigin = "https://x"\ndb_path = "kanidm.db"\nbindaddress = "localhost"\nversion = "3"\n')
    assert keys(found) == ["version", "domain", "db_path", "tls_chain", "tls_key", "bindaddress"]
    assert [problem.where for problem in found] == [f"{FILE}:5", f"{FILE}:1", f"{FILE}:3", str(FILE), str(FILE), f"{FILE}:4"]


def test_a_key_that_is_there_twice() -> None:
    """Told as for config.toml."""
    (problem,) = problems(BASE + 'domain = "example.org"\n')
    assert (problem.where, problem.key, problem.fix) == (f"{FILE}:6", "domain", "Remove one of the two.")


def test_the_origin_is_judged_without_the_domain_too() -> None:
    """A wrong domain hides nothing of the origin but whether the two fit."""
    assert keys(problems(BASE.replace('"example.com"', "7").replace("https://id", "http://id"))) == ["domain", "origin"]
    assert keys(problems(BASE.replace('"example.com"', "7"))) == ["domain"]


def test_a_required_key_that_is_misspelt() -> None:
    """What is missing and what is unknown are one mistake, told as one, with the line; others are left to the warnings."""
    (problem,) = problems(BASE.replace("db_path", "db_pth") + "colour = 1\n")
    assert (problem.where, problem.key) == (f"{FILE}:3", "db_path")
    assert problem.found == "nothing, but an unknown key 'db_pth'"
    assert problem.fix == "Did you mean 'db_path'?"


def examine(tmp_path: Path, text: str) -> tuple[ServerToml | None, list[str], list[str]]:
    """Return what ``examine`` does of a file with ``text``: the server, and the keys of problems and of warnings."""
    (tmp_path / "server.toml").write_text(text)
    server, wrong, warned = server_toml.examine(tmp_path / "server.toml", CONFIG)
    return server, keys(wrong), keys(warned)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """A setting that is refused hides neither what does not fit config.toml nor the warnings, nor what they can be told of."""
    text = BASE.replace("https://id.example.com", "http://x") + 'bindaddress = "0.0.0.0:9"\nldapbindaddress = "x"\nbindadress = 1\n'
    server, wrong, warned = examine(tmp_path, text)
    assert server is not None
    assert server.db_path == Path("/var/lib/upstream/kanidm.db")
    assert wrong == ["origin", "bindaddress"]
    assert warned == ["trust_x_forward_for", "ldapbindaddress", "bindaddress", "bindadress"]
    with pytest.raises(ConfigError) as caught:
        server_toml.load(tmp_path / "server.toml", CONFIG)
    assert keys(caught.value.problems) == wrong


def test_what_could_not_be_read_is_not_judged(tmp_path: Path) -> None:
    """Of an address, a trust or a path that is refused nothing more is said, and no server is made of it."""
    server, wrong, warned = examine(tmp_path, BASE.replace('"/var', '"var') + 'bindaddress = "x"\ntrust_x_forward_for = 7\n')
    assert (server, wrong, warned) == (None, ["db_path", "bindaddress", "trust_x_forward_for"], [])
    assert examine(tmp_path, "domain = \n") == (None, [""], [])
    assert examine(tmp_path, BASE + "trust_x_forward_for = true\n")[1:] == ([], [])


def test_unknown_keys_are_told_with_the_nearest_known_one() -> None:
    """Kanidm's own message for them is easily overlooked."""
    found = server_toml.warnings(parse(BASE + "trust_x_forward_for = true\nbindadress = 1\nqqqq = 1\n"), CONFIG)
    assert [(problem.where, problem.key) for problem in found] == [(f"{FILE}:7", "bindadress"), (f"{FILE}:8", "qqqq")]
    assert [problem.fix for problem in found] == ["Did you mean 'bindaddress'?", "Is it a typo?"]


@pytest.mark.parametrize(
    "table",
    [
        'http_client_address_info = "x"',
        "http_client_address_info = {x-forward-for = 7}",
        'http_client_address_info = {proxy-v2 = ["x"]}',
    ],
)
def test_client_address_info_refused(table: str) -> None:
    """What cannot be understood is not taken for trust."""
    assert keys(problems(f'version = "2"\n{BASE}{table}\n')) == ["http_client_address_info"]


def test_unreadable_files(tmp_path: Path) -> None:
    """Missing, not TOML, not text: each in words."""
    with pytest.raises(ConfigError, match="no such file"):
        server_toml.load(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        server_toml.load(tmp_path / "bytes")
    with pytest.raises(ConfigError, match=r":2: found a TOML syntax error"):
        server_toml.parse("domain = 1\norigin = \n", FILE)


@pytest.mark.parametrize(
    ("bind", "upstream", "reaches"),
    [
        ("127.0.0.1:8443", "127.0.0.1:8443", True),
        ("127.0.0.1:8444", "127.0.0.1:8443", False),
        ("127.0.0.2:8443", "127.0.0.1:8443", False),
        ("0.0.0.0:8443", "127.0.0.1:8443", True),
        ("0.0.0.0:8443", "[::1]:8443", False),
        ("[::]:8443", "127.0.0.1:8443", True),
        ("[0:0:0:0:0:0:0:1]:8443", "[::1]:8443", True),
        ("127.0.0.1:8443", "localhost:8443", True),
        ("10.0.0.1:8443", "localhost:8443", False),
    ],
)
def test_bind_address_must_serve_upstream_addr(bind: str, upstream: str, reaches: bool) -> None:
    """Wildcards and spellings of one address count as the same; anything else is told with both sides' fix."""
    server = parse(BASE + f'bindaddress = "{bind}"\n')
    instance = config.parse(f'listen_addr = "10.10.20.10:443"\nupstream_addr = "https://{upstream}"\n', CONFIG.path)
    found = server_toml.check_against(server, instance)
    assert keys(found) == ([] if reaches else ["bindaddress"])
    assert all("upstream_addr" in problem.fix for problem in found)


def test_one_of_several_listeners_is_enough() -> None:
    """Kanidm 1.8 and later can listen on more."""
    assert server_toml.check_against(parse(SECOND), CONFIG) == []


def test_kanidm_on_our_own_address_is_refused() -> None:
    """A wildcard listener of Kanidm takes the address that Kiwi ID is to listen on."""
    found = server_toml.check_against(parse(BASE + 'bindaddress = "0.0.0.0:8443"\n'), CONFIG)
    assert "listen_addr 10.10.20.10:8443" in found[0].found


def test_proxy_protocol_from_our_address_is_refused() -> None:
    """Kanidm would wait for a header that Kiwi ID does not send, and every request would fail."""
    base = 'version = "2"\n' + BASE
    assert server_toml.check_against(parse(base + 'http_client_address_info = {proxy-v2 = ["10.0.0.0/8"]}\n'), CONFIG) == []
    found = server_toml.check_against(parse(base + 'http_client_address_info = {proxy-v2 = ["127.0.0.0/8"]}\n'), CONFIG)
    assert keys(found) == ["http_client_address_info"]


def test_warnings() -> None:
    """Distrust of our X-Forwarded-For, LDAP, missing pages, open listeners and typos are told and stop nothing."""
    assert server_toml.warnings(parse(BASE + "trust_x_forward_for = true\n"), CONFIG) == []
    text = BASE + 'ldapbindaddress = "0.0.0.0:3636"\nrole = "WriteReplicaNoUI"\nbindaddress = "0.0.0.0:8443"\nbindadress = ""\n'
    assert keys(server_toml.warnings(parse(text), CONFIG)) == [
        "trust_x_forward_for",
        "ldapbindaddress",
        "role",
        "bindaddress",
        "bindadress",
    ]
    elsewhere = parse('version = "2"\n' + BASE + 'http_client_address_info = {x-forward-for = ["10.0.0.1"]}\n')
    assert keys(server_toml.warnings(elsewhere, CONFIG)) == ["http_client_address_info"]
