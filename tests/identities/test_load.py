"""State files are read strictly: what is wrong is told with file, line, key and what may be there, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiwi_id.errors import ConfigError, ConfigMissing
from kiwi_id.identities import export
from kiwi_id.identities.load import load, parse
from kiwi_id.identities.model import Identities

from .world import EVERYTHING, KEYS, state


def problems(text: str) -> list[str]:
    """Return what is told about a file, without its directory."""
    with pytest.raises(ConfigError) as error:
        state(text)
    return [str(problem).removeprefix("/etc/kiwi/") for problem in error.value.problems]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[persons.Alice]", 'identities.toml:1: persons.Alice: found "Alice" (string); allowed: a name of up to 64 of a-z'),
        ("[persons.kiwi_id]", "Kiwi ID keeps this one for itself"),
        (
            "[person.alice]",
            "allowed: prune, persons, groups, service_accounts, clients. Did you mean [persons.alice]?",
        ),
        ("[persons.a]\nemail = []", "identities.toml:2: persons.a.email: found an unknown key. Did you mean 'mail'?"),
        ("[persons.a]\nmail = ['x']", 'persons.a.mail: found "x" (string); allowed: a mail address'),
        ("[persons.a]\nmail = ['x@y', 'x@y']", 'found "x@y" (string) twice; allowed: each once'),
        ("[persons.a]\npassword = 'x'", "No secret belongs in this file."),
        (
            "[persons.a]\ngroups = ['staf']\n[groups.staff]",
            "identities.toml:2: persons.a.groups: found 'staf'; allowed: groups that the state file has. Did you",
        ),
        ("[persons.a]\nexpires = 2027-01-01", "a date and time with an offset"),
        (
            "[persons.a]\nssh_keys = { x = 'nonsense' }",
            "persons.a.ssh_keys: found 'x' with \"nonsense\" (string); allowed: a public key",
        ),
        ("[persons.a]\nposix = { uid = 5 }", "found an unknown key 'uid'; allowed: in posix: gid, shell"),
        ("[persons.a]\nposix = { gid = 5 }", "found 'gid' with 5 (integer); allowed: an integer from 1000"),
        ('[persons.a]\ndisplay_name = "a\\nb"', "a string on one line"),
        (
            "[persons.a]\n[groups.a]",
            "groups.a: found 'a' a second time; allowed: each name once, over all kinds and files. It is in",
        ),
        ("[groups.g]\npolicy = { session_expiry = 5 }", "found 'session_expiry' with 5 (integer)"),
        ("[clients.c]", "clients.c.landing: found nothing; allowed: the address where people find the application"),
        ("[clients.c]\nlanding = 'https://x/'\ntype = 'public'\npkce = false", "a public client has nothing but PKCE"),
        ("[clients.c]\nlanding = 'https://x/'\nlocalhost_redirect = true", "Kanidm has it for public clients only"),
        ("[clients.c]\nlanding = 'https://x/'\nscopes = { g = ['a b'] }", "found 'g' with \"a b\" (string); allowed: a scope"),
        (
            "[clients.c]\nlanding = 'https://x/'\nbackchannel_logout_uri = 'https://x/'",
            "write it in config.toml, in [clients.NAME]",
        ),
        ("[clients.c]\nlanding = 'https://x/'\nsecret = 'x'", "Name a file by 'secret_file'."),
        ("[clients.c]\nlanding = 'https://x/a/../b'", "a URI without dot segments"),
        ("[clients.c]\nlanding = 'https://x/{b}'", "a URI without dot segments"),
        ("prune = 'yes'", 'identities.toml:1: prune: found "yes" (string); allowed: true or false'),
        ("persons = 3", "persons: found 3 (integer); allowed: tables such as [persons.NAME]"),
        ("[persons.a", "TOML syntax error"),
    ],
)
def test_words(text: str, words: str) -> None:
    """Each mistake has its own words, and nothing else is told beside it."""
    [told] = problems(text)
    assert words in told


def test_all_at_once() -> None:
    """Every mistake of a file is told, not the first only."""
    found = problems("[persons.a]\nzoo = 3\nape = 1\nnot = 2\nbee = 4")
    assert [text.split(":")[1] for text in found] == ["2", "3", "4", "5"]
    assert len(problems("[persons.a]\nmail = 3\nshoe = 1\n[clients.c]\nlanding = 7\n[persons.B]\n")) == 4


def test_a_directory_of_files(tmp_path: Path) -> None:
    """identities.toml and identities.d/*.toml are one; a name in two of them is an error that names both files and lines."""
    main, more = tmp_path / "identities.toml", tmp_path / "identities.d"
    with pytest.raises(ConfigMissing, match="no state file"):
        load(main)
    main.write_text("[persons.alice]\n[groups.staff]\n")
    more.mkdir()
    (more / "mail.toml").write_text("prune = true\n[persons.bob]\ngroups = ['staff']\n")
    (more / "notes.txt").write_text("not TOML")
    found = load(main)
    assert (set(found.persons), found.groups["staff"].members, found.prune) == ({"alice", "bob"}, frozenset({"bob"}), True)
    (more / "wiki.toml").write_text("prune = false\n\n[groups.alice]\n")
    with pytest.raises(ConfigError) as error:
        load(main)
    texts = [str(problem) for problem in error.value.problems]
    assert len(texts) == 2
    assert f"{more}/wiki.toml:1: prune: found another value than in {more}/mail.toml" in texts[0]
    assert f"{more}/wiki.toml:3: groups.alice: found 'alice' a second time" in texts[1]
    assert f"It is in {main}:1 already." in texts[1]


def test_a_directory_by_itself(tmp_path: Path) -> None:
    """A directory named as the state file is all of its *.toml; a file that cannot be read is told, not left out."""
    (tmp_path / "a.toml").write_text("[persons.alice]\n")
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"b\.toml: found bytes that are not UTF-8"):
        load(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xef\xbb\xbf[persons.bob]\n")
    with pytest.raises(ConfigError, match=r"b\.toml:1: found a byte order mark \(BOM\)"):
        load(tmp_path)
    (tmp_path / "b.toml").write_text("[persons.bob]\n")
    assert set(load(tmp_path).persons) == {"alice", "bob"}


def test_a_link_to_nothing(tmp_path: Path) -> None:
    """A main file that is a link to nothing is an error: skipped, with prune, it would remove everybody who is in it."""
    main, more = tmp_path / "identities.toml", tmp_path / "identities.d"
    more.mkdir()
    (more / "a.toml").write_text("prune = true\n[persons.bob]\n")
    main.symlink_to(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"identities\.toml: found a symbolic link to nothing"):
        load(main)
    main.unlink()
    (more / "a.toml").rename(main)
    more.rmdir()
    more.symlink_to(tmp_path / "gone.d")
    with pytest.raises(ConfigError, match=r"identities\.d: found a symbolic link to nothing"):
        load(main)


def test_normal_forms() -> None:
    """What Kanidm stores alike is alike here: order of further addresses, comments of keys, spelling of URIs, offsets of times."""
    one = "[persons.a]\nmail=['1@x','3@x','2@x']\nssh_keys={k='%s me@here'}\nexpires=2030-01-01T02:00:00+02:00\n" % KEYS[0]  # noqa: UP031
    two = "[persons.a]\nmail=['1@x','2@x','3@x']\nssh_keys={k='%s'}\nexpires=2030-01-01T00:00:00.5Z\n" % KEYS[0]  # noqa: UP031
    one += "[clients.c]\nlanding='HTTPS://X.example:443'\nclaims={r={join='csv'}}\nscopes={g=[]}\n"
    two += "[clients.c]\nlanding='https://x.example/'\n"
    first, second = state(one), state(two)
    assert (first.persons, first.clients) == (second.persons, second.clients)


def test_export_is_read_back() -> None:
    """What export writes of a file, load reads as the same, odd texts included."""
    odd = EVERYTHING.replace("Alice Example", 'A \\"quote\\", ü, \\\\ and \\u2603')
    wanted = state(odd)
    again = parse([(Path("/etc/kiwi/identities.toml"), export.text(wanted))])
    assert strip(again) == strip(wanted)


def strip(identities: Identities) -> Identities:
    """Return the same without where it was written."""
    return Identities(
        identities.persons, identities.groups, identities.service_accounts, identities.clients, identities.prune, identities.adopt
    )
