"""``kiwi-id user``, over the stand-in and the real kanidmd: what it says, what it does, and links that open Kanidm's page."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
import segno
import trio

from kiwi_id.bootstrap import open_kanidm
from kiwi_id.cli.qr import qr_lines
from kiwi_id.cli.shared import table
from kiwi_id.errors import Exit
from kiwi_id.kanidm.rest import CredentialUpdate, KanidmRefused
from tests.bootstrap import conftest
from tests.bootstrap.world import ROOT, SECONDS, World

command, world, ready = conftest.command, conftest.world, conftest.ready  # the fixtures
PASSWORD = "harbour-cinnamon-glacier-41"


def token_of(link: str) -> str:
    """Return the token in a reset link."""
    (token,) = parse_qs(urlsplit(link).query)["token"]
    return token


def use(world: World, token: str) -> None:
    """Set a password by a reset token, as Kanidm's page does."""

    async def work() -> None:
        async with open_kanidm(world.config, world.server) as kanidm:
            await kanidm.allow_password_only()
        async with world.client() as anybody:
            session, _ = await anybody.call("POST", "/v1/credential/_exchange_intent", token)
            update = CredentialUpdate(anybody, "dora", session)
            await update.password(PASSWORD)
            await update.commit()

    trio.run(work)


def test_add_show_list(ready: World) -> None:
    """A user is added with mail and groups, and is shown and listed, for people and for programs."""
    ready.ok("group", "add", "readers")
    added = ready.json(
        *("user", "add", "Dora", "--display-name", "Dora Example", "--mail", "dora@example.com", "--mail", "d@example.com"),
        *("--group", "readers"),
    )
    assert added["name"] == "dora"
    assert added["display_name"] == "Dora Example"
    assert sorted(added["mail"]) == ["d@example.com", "dora@example.com"]
    assert (added["groups"], added["disabled"]) == (["readers"], False)
    assert added["credentials"] is False
    assert ready.json("user", "show", "dora") == added
    assert ready.json("user", "list") == [added]
    assert "kiwi-id user reset-link anna" in ready.ok("user", "add", "anna")
    lines = ready.ok("user", "list").splitlines()
    assert lines[0].split() == ["NAME", "DISPLAY", "NAME", "MAIL", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == ["anna", "dora"]
    assert re.search(r"^groups +readers$", ready.ok("user", "show", "dora"), re.MULTILINE)


def test_names_that_are_taken_or_missing(ready: World) -> None:
    """Names are told from each other across kinds, what is missing is named before anything is made, and exit codes are 1."""
    ready.ok("group", "add", "readers")
    ready.ok("user", "add", "dora")
    cases = (
        (("user", "add", "dora"), "a user 'dora' already"),
        (("user", "add", "readers"), "a group 'readers' already"),
        (("user", "add", "eve", "--group", "nothing"), "no group 'nothing'"),
        (("user", "show", "eve"), "no user 'eve'"),
        (("user", "show", "readers"), "no user 'readers'"),
        (("user", "disable", "eve"), "no user 'eve'"),
        (("user", "enable", "eve"), "no user 'eve'"),
        (("user", "reset-link", "eve"), "no user 'eve'"),
        (("user", "remove", "eve", "--yes"), "no user 'eve'"),
    )
    for arguments, words in cases:
        done = ready.run(*arguments)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, ""), arguments
        assert words in done.stderr
    for name in ("../self", "a/b", "-x", "d?ra", "", "a b"):
        assert ready.run("user", "show", "--", name).returncode == Exit.USAGE


def test_what_kanidm_would_refuse_in_codes(ready: World) -> None:
    """A name, a mail address or a text that Kanidm does not take is told in words, with what is allowed; so is one in use."""
    for arguments, words in (
        (("0num",), "beginning with a letter"),
        (("bob@id.example.com",), "beginning with a letter"),
        (("bob", "--mail", "nobody"), '--mail: found "nobody"'),
        (("bob", "--mail", "b@example.com", "--mail", "b@example.com"), "twice"),
        (("bob", "--display-name", "B\x1b[2Jb"), "--display-name: "),
    ):
        done = ready.run("user", "add", *arguments)
        assert (done.returncode, done.stdout) == (Exit.USAGE, ""), arguments
        assert words in done.stderr
        assert done.stderr.removesuffix("\n").isprintable()
    ready.ok("user", "add", "anna", "--mail", "a@example.com")
    done = ready.run("user", "add", "bob", "--mail", "a@example.com")
    assert (done.returncode, done.stdout) == (Exit.FAILURE, "")
    assert "Something else in Kanidm has that name or mail address already" in done.stderr
    assert [user["name"] for user in ready.json("user", "list")] == ["anna"]


def test_a_name_that_the_terminal_cannot_show(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the C locale without Python's UTF-8 mode, a list is a list all the same."""
    ready.ok("user", "add", "zoe", "--display-name", "Zoë")
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    assert "Zo\\u00eb" in ready.ok("user", "list")


def test_columns_of_wide_characters() -> None:
    """A column is as wide as a terminal shows it: two for a character of East Asia, none for an accent by itself."""
    lines = table(("A", "B"), [("田中", "x"), ("e\u0301", "y"), ("abcd", "z")])
    assert lines == ["A     B", "田中  x", "e\u0301     y", "abcd  z"]


def test_a_reset_link(ready: World) -> None:
    """The link leads to Kanidm's page at the origin, ends when it says, and sets a password with which the user signs in."""
    added = ready.json("user", "add", "dora", "--reset-link", "--ttl", "30m")
    link = added["reset_link"]
    assert link["url"].startswith("https://id.example.com/ui/reset?token=")
    left = (datetime.fromisoformat(link["expires"]) - datetime.now(UTC)).total_seconds()
    assert 25 * 60 < left <= 30 * 60
    use(ready, token_of(link["url"]))
    assert ready.accepts("dora", PASSWORD)
    assert ready.json("user", "show", "dora")["credentials"] is True
    first, second = ready.ok("user", "reset-link", "dora").splitlines()  # no terminal: no QR code
    assert re.fullmatch(r"https://id\.example\.com/ui/reset\?token=[\w-]+", first)
    assert re.fullmatch(r"Good for one use until \d{4}-\d\d-\d\d \d\d:\d\d UTC, in \S+ \S+.*\. Who has it .*", second)
    assert ready.accepts("dora", PASSWORD)  # a link that is not used changes nothing


@pytest.mark.parametrize("ttl", ["4m", "25h", "soon", "3600"])
def test_how_long_a_link_may_live(ready: World, ttl: str) -> None:
    """Kanidm knows links of five minutes to a day; others are refused in words instead of bent."""
    ready.ok("user", "add", "dora")
    done = ready.run("user", "reset-link", "dora", "--ttl", ttl)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert "--ttl" in done.stderr


def test_disable_and_enable(ready: World) -> None:
    """Who is disabled does not come in, and neither does a session of before; enabled again, with the same password."""
    token = token_of(ready.json("user", "add", "dora", "--reset-link")["reset_link"]["url"])
    use(ready, token)

    async def work() -> None:
        async with ready.client() as dora:
            await dora.login("dora", PASSWORD)
            assert (await trio.to_thread.run_sync(ready.json, "user", "disable", "dora"))["disabled"] is True
            with pytest.raises(KanidmRefused, match="401"):
                await dora.call("GET", "/v1/self")

    trio.run(work)
    assert not ready.accepts("dora", PASSWORD)
    assert ready.ok("user", "list").splitlines()[1].split()[-1] == "disabled"
    assert "dora is disabled" in ready.ok("user", "reset-link", "dora")
    assert ready.json("user", "enable", "dora")["disabled"] is False
    assert ready.accepts("dora", PASSWORD)
    ready.ok("user", "enable", "dora")


def test_remove(ready: World) -> None:
    """Without a terminal --yes must be said; then the user is gone, and so is the membership."""
    ready.ok("group", "add", "readers")
    ready.ok("user", "add", "dora", "--group", "readers")
    done = ready.run("user", "remove", "dora")
    assert done.returncode == Exit.USAGE
    assert "--yes" in done.stderr
    assert ready.json("user", "remove", "dora", "--yes") == {"name": "dora", "removed": True}
    assert ready.json("user", "list") == []
    assert ready.json("group", "show", "readers")["members"] == []


def on_a_terminal(world: World, *arguments: str, typed: bytes = b"") -> tuple[int, str]:
    """Run ``kiwi-id`` on a terminal of its own, on which somebody types; return its exit code and all that is shown there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kiwi_id", *arguments, "--config", str(world.config_file)]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # EIO: nobody has the terminal any more
            pass
        code = process.wait(SECONDS)
    os.close(ours)
    return code, shown.decode()


def test_on_a_terminal(ready: World) -> None:
    """A terminal gets the link as a QR code, too, unless it is not wanted; a question before a removal, where only yes is yes."""
    ready.ok("user", "add", "dora")
    code, shown = on_a_terminal(ready, "user", "reset-link", "dora")
    assert code == Exit.OK
    link = shown.split("\r\n")[0]
    assert "\r\n".join(qr_lines(link)) in shown
    code, shown = on_a_terminal(ready, "user", "reset-link", "dora", "--no-qr")
    assert "█" not in shown
    code, shown = on_a_terminal(ready, "user", "remove", "dora", typed=b"n\n")
    assert code == Exit.USAGE
    assert "Remove the user dora" in shown
    assert [user["name"] for user in ready.json("user", "list")] == ["dora"]
    assert on_a_terminal(ready, "user", "remove", "dora", typed=b"y\n")[0] == Exit.OK
    assert ready.json("user", "list") == []


def test_qr_code() -> None:
    """The characters on the terminal are the modules of the code, dark on light, with the margin that readers need."""
    text = "https://id.example.com/ui/reset?token=AAAAA-BBBBB-CCCCC-DDDDD"
    modules = []
    for line in qr_lines(text):
        found = re.fullmatch("\x1b\\[30;107m([ ▀▄█]+)\x1b\\[0m", line)
        assert found
        modules += [[char in "▀█" for char in found[1]], [char in "▄█" for char in found[1]]]
    wanted = [[bool(module) for module in row] for row in segno.make(text, micro=False, error="m").matrix]
    size = len(wanted)
    assert [row[4 : 4 + size] for row in modules[4 : 4 + size]] == wanted
    assert not any(module for at, row in enumerate(modules) for module in (row if at < 4 or at >= 4 + size else row[:4] + row[-4:]))


def test_what_a_terminal_would_obey(ready: World) -> None:
    """A display name that turns the direction of writing round does not do so in a table: it would show one name as another."""
    ready.ok("user", "add", "dora", "--display-name", "Dora \u202eniamda")
    for arguments in (("user", "list"), ("user", "show", "dora")):
        shown = ready.ok(*arguments)
        assert "Dora \\u202eniamda" in shown
        assert "\u202e" not in shown
    assert ready.json("user", "show", "dora")["display_name"] == "Dora \u202eniamda"
