"""config.toml: every kind of error with file, line, key, found, allowed and fix; all of them at once; docs that agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kiwi_id import config
from kiwi_id.config import CLIENT_KEYS, KEYS, LIMIT_KEYS, PROTECTION_KEYS, Config
from kiwi_id.errors import ConfigError, Exit, Problem

ROOT = Path(__file__).parent.parent
FILE = Path("/etc/kiwi/config.toml")
FULL = """\
listen_addr = "10.10.20.10:8443"
upstream_addr = "https://127.0.0.1:8443"
upstream_bin = "/opt/upstream/bin/kanidmd"
upstream_config = "/opt/upstream/etc/server.toml"
health_check_interval = "5s"
health_check_timeout = "60s"
jwt_private_key = "/etc/kiwi/jwt-private.pem"
jwt_public_key = "/etc/kiwi/jwt-public.pem"
log_level = "info"
"""


def problems(text: str) -> list[Problem]:
    """Return what is wrong with ``text``; fail when nothing is."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text, FILE)
    return caught.value.problems


def test_the_nine_keys_and_an_empty_file_mean_the_same() -> None:
    """The defaults are the layout of a KiwiStack machine."""
    full, empty = config.parse(FULL, FILE), config.parse("", FILE)
    assert full == empty
    assert str(full.listen_addr) == "10.10.20.10:8443"
    assert (full.health_check_interval, full.health_check_timeout) == (5.0, 60.0)
    assert full.compatibility_file == Path("/etc/kiwi/compatibility.toml")
    assert full.control_socket == Path("/run/kiwi/control.sock")


@pytest.mark.parametrize(
    ("line", "key", "found", "allowed", "fix"),
    [
        ('listen_adr = "1.2.3.4:5"', "listen_adr", "an unknown key", "", "Did you mean 'listen_addr'?"),
        ("zzz = 1", "zzz", "an unknown key", "", "Remove it; docs/configuration.md lists all keys."),
        ("max_connections = 1", "max_connections", "an unknown key", "", "'max_connections' belongs in the table [limits]."),
        ('listen_addr = "1.2.3.4"', "listen_addr", '"1.2.3.4" (string)', '"host:port"', "port number"),
        ("health_check_interval = 5", "health_check_interval", "5 (integer)", '"5s"', 'Write it with a unit: "5s".'),
        ('health_check_interval = "1ms"', "health_check_interval", '"1ms" (string)', "from 50ms", ""),
        ('upstream_addr = "http://127.0.0.1:1"', "upstream_addr", "http://", '"https://host:port"', "must begin with https://"),
        ('upstream_bin = "kanidmd"', "upstream_bin", '"kanidmd" (string)', "an absolute path", "from the root"),
        ('log_level = "verbose"', "log_level", '"verbose" (string)', '"error", "warn", "info", "debug", "trace"', ""),
        ('allow_untested = "yes"', "allow_untested", '"yes" (string)', "true or false", ""),
        ("restart_limit = 0", "restart_limit", "0 (integer)", "an integer from 1 to 1000", ""),
        ('trusted_proxies = "10.0.0.1"', "trusted_proxies", '"10.0.0.1" (string)', "an array", ""),
        ('tls_cert = "/c.pem"', "tls_cert", "'tls_cert' without 'tls_key'", "both", "Add 'tls_key'."),
        ('health_check_timeout = "1s"', "health_check_timeout", "1s, less than", "at least one interval", "Raise it"),
        ('listen_addr = "127.0.0.1:8443"', "listen_addr", "the same as upstream_addr", "an address of its own", "share"),
        ("limits = 7", "limits", "7 (integer)", "a [limits] table", ""),
        ('limits.max_body_bytes = "1GB"', "limits.max_body_bytes", '"1GB" (string)', '"30MiB"', ""),
    ],
)
def test_every_kind_of_error_names_its_place(line: str, key: str, found: str, allowed: str, fix: str) -> None:
    """File and line, key, what was found, what is allowed, what to do: each in its own part."""
    (problem,) = problems(f"# a comment\n\n{line}\n")
    assert problem.where == f"{FILE}:3"
    assert problem.key == key
    assert found in problem.found
    assert allowed in problem.allowed
    assert fix in problem.fix


def test_errors_in_the_limits_table() -> None:
    """Keys of the table carry its name, and a top-level key that strayed into it is sent home."""
    typo, stray = problems('[limits]\nmax_conections = 5\nlog_level = "info"\n')
    assert (typo.where, typo.key, typo.fix) == (f"{FILE}:2", "limits.max_conections", "Did you mean 'limits.max_connections'?")
    assert (stray.where, stray.fix) == (f"{FILE}:3", "'log_level' belongs in the top of the file, before any [table].")


def test_all_problems_are_told_at_once() -> None:
    """Nobody should have to mend a file one error a run."""
    found = problems('log_levl = "info"\nlisten_addr = 7\nlog_format = "xml"\n[limits]\nheader_timeout = "never"\n')
    assert sorted(problem.key for problem in found) == ["limits.header_timeout", "listen_addr", "log_format", "log_levl"]
    assert len({problem.where for problem in found}) == len(found)


@pytest.mark.parametrize("text", ["log_level = \n", "a.b = 1\n[a]\nb = 2\n", "x = " + "9" * 5000, "x = " + "[" * 9000])
def test_what_is_not_toml(text: str) -> None:
    """Syntax errors, and what Python's parser trips over, are problems of the file, not crashes of ours."""
    (problem,) = problems(text)
    assert problem.where.startswith(str(FILE))
    assert "syntax error" in problem.found


def test_syntax_errors_carry_the_line() -> None:
    """The parser's line ends up where all others are."""
    (problem,) = problems('log_level = "info"\nlog_format = \n')
    assert problem.where == f"{FILE}:2"


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ('log_level = "info"\n\nlog_level = "debug"\n', 3, "log_level", 1),
        ('log_level = "info"\nlog_level = "debug"', 2, "log_level", 1),  # tomllib tells no line at the end of the file
        ("[limits]\nmax_connections = 1\nmax_connections = 1\n[clients]\n", 3, "limits.max_connections", 2),
        ("[limits]\n[clients]\n[limits]\n", 3, "limits", 1),
    ],
)
def test_a_key_or_table_that_is_there_twice(text: str, line: int, key: str, first: int) -> None:
    """Both lines are told, and that one of them must go, in words that are no parser's."""
    (problem,) = problems(text)
    assert (problem.where, problem.key) == (f"{FILE}:{line}", key)
    assert problem.found == f"the same once more: it is on line {first} already"
    assert (problem.allowed, problem.fix) == ("each once", "Remove one of the two.")


def test_an_integer_of_any_length_is_refused_like_another() -> None:
    """Python refuses to print some, which must not be a traceback."""
    huge = "0x" + "f" * 9000
    found = problems(f"health_check_interval = {huge}\nlog_level = {huge}\n[limits]\nmax_connections = {huge}\n")
    assert [problem.key for problem in found] == ["health_check_interval", "log_level", "limits.max_connections"]


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file tells how to get one; a directory and bytes that are no text are told as what they are."""
    with pytest.raises(ConfigError, match=r"no such file.*kiwi-id init"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        config.load(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"log_level = \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(broken)


def test_where_the_file_is_looked_for() -> None:
    """--config before KIWI_CONFIG before /etc/kiwi/config.toml; empty means not given."""
    assert config.config_path("/a", {"KIWI_CONFIG": "/b"}) == Path("/a")
    assert config.config_path(None, {"KIWI_CONFIG": "/b"}) == Path("/b")
    assert config.config_path(None, {"KIWI_CONFIG": ""}) == FILE
    assert config.config_path("c.toml", {}).is_absolute()


def test_environment_and_option_reach_the_program(tmp_path: Path) -> None:
    """The real command reads KIWI_CONFIG, and --config beats it; both fail with exit code 78 and words, no traceback."""
    for name in ("env", "option"):
        (tmp_path / name).write_text("nonsense = 1\n")
    environment = os.environ | {"KIWI_CONFIG": str(tmp_path / "env")}
    for extra, name in (([], "env"), (["--config", str(tmp_path / "option")], "option")):
        command = [sys.executable, "-m", "kiwi_id", "pin", *extra]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == Exit.CONFIG
        assert f"{tmp_path / name}:1: nonsense: found an unknown key" in done.stderr
        assert "Traceback" not in done.stderr


def test_changes_are_sorted_into_live_and_restart() -> None:
    """A reload must say what it could not change."""
    old = config.parse("", FILE)
    new = config.parse('log_level = "debug"\nlisten_addr = "10.10.20.10:9"\n[limits]\nmax_connections = 5\n', FILE)
    assert config.changes(old, new) == (["limits.max_connections", "log_level"], ["listen_addr"])
    assert config.changes(old, old) == ([], [])


def test_every_row_becomes_a_field() -> None:
    """KEYS and the dataclass cannot drift apart."""
    assert {*KEYS, "path", "limits", "protection", "clients"} == set(Config.__dataclass_fields__)
    assert set(LIMIT_KEYS) == set(config.Limits.__dataclass_fields__)
    assert set(PROTECTION_KEYS) == set(config.Protection.__dataclass_fields__)
    assert set(CLIENT_KEYS) == set(config.ClientSettings.__dataclass_fields__)


def test_the_documentation_has_a_row_for_every_key() -> None:
    """docs/configuration.md lists exactly the keys of the code, in their order, with default, reload and help."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (live|restart) \| (.*?) \|$", text, re.MULTILINE)
    expected = []
    for name, key in [*KEYS.items(), *LIMIT_KEYS.items(), *PROTECTION_KEYS.items(), *CLIENT_KEYS.items()]:
        default = {"": '""', True: "true", False: "false"}.get(key.default) if not isinstance(key.default, list) else "[]"
        if default is None:
            default = f'"{key.default}"' if isinstance(key.default, str) else str(key.default)
        expected.append((name, default, "live" if key.reloadable else "restart", key.help))
    assert rows == expected


def test_client_tables() -> None:
    """A [clients.NAME] table is as strict as the rest: names, types and lines are told."""
    text = '[clients.mail]\npost_logout_redirect_uris = ["https://mail.example.com/bye"]\n'
    text += '[clients."web-app"]\nrequire_pkce = true\n'
    loaded = config.parse(text, FILE)
    assert loaded.clients["mail"].post_logout_redirect_uris == ("https://mail.example.com/bye",)
    assert loaded.clients["web-app"].require_pkce
    (problem,) = problems('[clients.mail]\nbackchannel_logout_url = "https://x"\n')
    assert (problem.where, problem.key) == (f"{FILE}:2", "clients.mail.backchannel_logout_url")
    assert "Did you mean 'clients.mail.backchannel_logout_uri'?" in problem.fix
    (problem,) = problems('[clients."web-app"]\npost_logout_redirect_uris = ["javascript:alert(1)"]\n')
    assert (problem.where, problem.key) == (f"{FILE}:2", "clients.web-app.post_logout_redirect_uris")
    (problem,) = problems("clients.mail = 3\n")
    assert problem.key == "clients.mail"
