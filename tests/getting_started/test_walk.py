"""docs/getting-started.md, carried out on a scratch machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiwi_id import devserver
from tests.getting_started.document import DOCUMENT, Commands, Output, Person, pieces
from tests.getting_started.scratch import Scratch, machine, require_tools
from tests.getting_started.walk import Walk

ROOT = DOCUMENT.parent.parent
SOURCE = "/usr/src/kiwi-id"
"""Where the source lies on the machine."""
WHEELS = "/var/cache/wheels"
WEBMAIL = ("authlib", "httpx2", "starlette", "itsdangerous", "hypercorn")
WIKI = """
[clients.wiki]
type = "public"
landing = "https://wiki.example.com/"
redirect_uris = ["https://wiki.example.com/callback"]
scopes = { mail_users = ["openid", "profile", "email", "groups"] }
"""
"""Another application, for the same people."""
IMPATIENT = """
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
"""
"""Dovecot lets an address wait longer and longer that shows it wrong tokens, as this test does."""
ENVIRONMENT = {
    # The interpreter is that of the tests, and no link to it: a venv of it would look for its library beside the link.
    "PATH": f"/usr/local/sbin:/usr/local/bin:{sys.base_prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    # The machine has no network.
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": WHEELS,
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the document has pip install, at the versions that are pinned here."""
    require_tools()
    directory = tmp_path_factory.mktemp("wheels")
    constraints = directory / "constraints.txt"
    pinned = (ROOT / "requirements/dev.txt").read_text()
    constraints.write_text(
        "\n".join(re.findall(r"^[^#\s].*?(?= *\\\\?$)", pinned, re.MULTILINE))
    )  # with hashes it is no constraint
    server = ("--require-hashes", "--no-deps", "-r", str(ROOT / "requirements/runtime.txt"))
    for what in (server, ("-c", str(constraints), *WEBMAIL, "hatchling")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--dest",
            str(directory),
            *what,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            pytest.skip(f"pip cannot get the packages that the document installs: {done.stderr[-300:]}")
    return directory


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The kanidmd that the document finds in /opt/upstream/bin."""
    if request.param == "real":
        found: Path = request.getfixturevalue("kanidmd")
        return found
    devserver.install(tmp_path / "kanidmd")
    return tmp_path / "kanidmd"


@pytest.fixture
def scratch(upstream: Path, wheels: Path) -> Iterator[Scratch]:
    """A machine with what the document presupposes, and nothing of ours beside it but the interpreter."""
    bound = [(upstream, "/opt/upstream/bin/kanidmd"), (wheels, WHEELS), (ROOT, SOURCE)]
    bound += [(path, str(path)) for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT)]
    with machine(bound, ENVIRONMENT, SOURCE) as made:
        # The interpreter may be in somebody's home; the document has it run by other users.
        assert made.run("chmod", "o+x", *map(str, Path(sys.base_prefix).parents)).status == 0
        yield made


def test_the_document(scratch: Scratch) -> None:
    """Every command of the document does what the document says, and then the mailbox is as closed as it says, too."""
    walk = Walk(scratch)
    identities, mark, mail = DOCUMENT.read_text().partition("\n## 7. The mail server\n")
    assert mark
    walk.go(pieces(identities))
    if scratch.run("sh", "-c", "command -v dovecot && test -e /usr/lib/dovecot/modules/auth/libauthdb_lua.so").status != 0:
        pytest.skip("as far as step 6 all is well; no Dovecot with Lua for the rest (Debian: dovecot-imapd, dovecot-auth-lua)")
    walk.go(pieces(mail))
    only_the_right_tokens(walk)
    only_members(walk)
    without_kiwi_id(walk)


def only_the_right_tokens(walk: Walk) -> None:
    """Access tokens of the webmail open the mailbox of their person, and nothing else that can be had or made does."""
    walk.ok("sh", "-ec", f"echo '{IMPATIENT}' >> /etc/dovecot/dovecot.conf; doveadm reload")
    walk.machine.write("/etc/kiwi/identities.d/wiki.toml", WIKI)
    walk.ok("kiwi-id", "apply")
    secret = walk.ok("cat", "/etc/kiwi/secrets/webmail").strip()
    opened = json.loads(walk.person("try-mailbox", secret))
    assert [kind for kind in opened if opened[kind]] == ["access token", "by XOAUTH2", "in capitals"], walk.more()
    assert len(opened) == 10


def only_members(walk: Walk) -> None:
    """Bob, who is not in the group, is sent back by Kiwi ID without a login; once the file has him there, he gets in."""
    walk.set_password("bob", walk.ok("kiwi-id", "user", "reset-link", "bob"))
    assert walk.person("read-mail", "bob").startswith("No login: access_denied")
    walk.ok("sed", "-i", 's/members = .*/members = ["alice", "bob"]/', "/etc/kiwi/identities.toml")
    walk.ok("kiwi-id", "apply")
    assert walk.person("read-mail", "bob") == "Bob Baker\n"


def without_kiwi_id(walk: Walk) -> None:
    """The mail server asks nobody: a token that was given opens the mailbox while there is no Kiwi ID."""
    pid = json.loads(walk.ok("kiwi-id", "status", "--json"))["pid"]
    walk.ok("sh", "-c", f"kill {pid}; while kill -0 {pid} 2> /dev/null; do sleep 0.1; done")
    assert walk.machine.run("kiwi-id", "health", "--quiet").status == 1
    assert json.loads(walk.person("try-kept")) is True, walk.more()


def test_what_is_left_out() -> None:
    """The blocks that are not carried out are these, so that none is put aside quietly."""
    assert re.findall(r"^```.*not here: (.*)$", DOCUMENT.read_text(), re.MULTILINE) == [
        "there is no systemd in the test's machine",
        "the test has no network, and wants it installed before",
        "Roundcube is not installed",
        "Debian 12 has Dovecot 2.3",
    ]


def test_a_block_that_nobody_knows() -> None:
    """A fence that is neither run nor written, nor put aside with a reason, is an error, and so is an unknown way to run."""
    for text in ("```toml\nx = 1\n```\n", "```sh twice\ntrue\n```\n", "```\nls\n```\n"):
        with pytest.raises(ValueError, match=r"neither run nor written|what is 'sh twice'"):
            pieces(text)
    assert pieces("```sh exits 2\nfalse\n```\n<!-- here: a b -->\n") == [Commands("false\n", 2), Person("a b")]
    assert Output("a …c").fits("a b\nc\n")
    assert not Output("a …c").fits("a b")
