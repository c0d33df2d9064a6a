"""What the child prints: relogged with its level, redacted, bounded; log levels, and the log file that is rotated."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.supervisor.kiwi import Kiwi, eventually

Make = Callable[..., Kiwi]

# What kanidmd 1.5.0 prints, with secrets where it prints them; each secret holds the word that the test looks for.
SECRET_LINES = [
    '7b1e ERROR    handle_request [ 1.3ms ] uri: "/ui/oauth2?client_id=app&state=SECRET1&code_challenge=SECRET2" version: 11',
    "7b1e INFO     ┝━ ｉ [info]: GET https://id.example.com/oauth2/token?code=SECRET3 HTTP/1.1",
    "7b1e WARN     token eyJhbGciOiJFUzI1NiJ9.eyJzZWNyZXQiOiJTRUNSRVQ0In0.SECRET5 was refused",
    "7b1e DEBUG    ┝━ authorization: Bearer SECRET6SECRET6",
    '7b1e INFO     ┝━ password: "SECRET7 with spaces" is wrong',
    "7b1e INFO     ┝━ cookie: bearer=SECRET8SECRET8; Path=/",
]


def test_child_output_keeps_its_level_and_gets_its_component(kiwi: Kiwi) -> None:
    """Each line is a record of the component kanidmd with the level that the line itself names, else info."""
    lines = {"error": "7b1e ERROR    a", "warn": "7b1e WARN     b", "info": "7b1e INFO     c", "debug": "7b1e DEBUG    d"}
    kiwi.behave({"print": [*lines.values(), "no level", "7b1e TRACE    e", "", "tab\tand \x1b[31mcolour"]})
    kiwi.set(log_level="trace")
    kiwi.start_ready()
    eventually(lambda: len(kiwi.logs(component="kanidmd")) >= 7, "all lines")  # they are read in batches
    found = {record["msg"]: record["level"] for record in kiwi.logs(component="kanidmd")}
    assert found == {
        **{line: level for level, line in lines.items()},
        "no level": "info",
        "7b1e TRACE    e": "trace",
        "tab\tand \x1b[31mcolour": "info",
    }


def test_log_levels_filter(make: Make) -> None:
    """Each level lets its own lines and graver ones through, of kanidmd as of Kiwi ID."""
    levels = ["error", "warn", "info", "debug", "trace"]
    kiwis = {}
    for level in levels:
        kiwis[level] = kiwi = make(log_level=level)
        kiwi.behave({"print": [f"7b1e {word.upper()} x" for word in levels], "exit_after": [1, 1.2]}, {})
        kiwi.start()
    for level, kiwi in kiwis.items():
        eventually(lambda kiwi=kiwi: kiwi.events("probe", life=1), "the second life")  # type: ignore[misc]
        assert kiwi.stop() == 0
        wanted = set(levels[: levels.index(level) + 1])
        assert {record["level"] for record in kiwi.logs(component="kanidmd")} == wanted
        assert {record["level"] for record in kiwi.logs()} == wanted
        assert bool(kiwi.logs(msg="child backoff")) == (level != "error")
        assert bool(kiwi.logs(msg="not ready")) == (level == "trace")


def test_secrets_in_child_output_reach_no_log(kiwi: Kiwi) -> None:
    """At the most talkative level neither stderr nor the log file nor the last words hold a query, token or password."""
    file = kiwi.directory / "kiwi.log"
    kiwi.set(log_level="trace", log_file=str(file), restart_limit="=1")
    kiwi.behave({"print": SECRET_LINES, "exit": 1})
    kiwi.start()
    assert kiwi.wait() == 69
    assert "last output of kanidmd:" in kiwi.text()
    assert len(kiwi.logs(component="kanidmd")) == len(SECRET_LINES)
    assert "/oauth2/token?[redacted]" in kiwi.text()
    for text in (kiwi.text(), file.read_text()):
        assert "SECRET" not in text
        assert "eyJ" not in text


def test_a_secret_at_the_cut_of_an_overlong_line_is_not_shown(kiwi: Kiwi) -> None:
    """A line that is too long is cut once and its rest dropped: cut into pieces, a token's second half looks like any text.

    The token stands before the cut, across it, and at the places where further pieces or further reads of the pipe would begin.
    """
    token = "eyJ" + "SECRET" * 30 + ".SECRET.SECRET"
    places = [7000, 8100, 8150, 8185, 8191, 16370, 65500]
    lines = ["x" * (place - 1) + " " + token + " " + "y" * 100_000 + " ?state=" + token for place in places]
    kiwi.behave({"print": [*lines, "after"], "exit": 1})
    kiwi.set(restart_limit="=1")
    kiwi.start()
    assert kiwi.wait() == 69
    records = kiwi.logs(component="kanidmd")
    assert [record["msg"][:3] for record in records] == ["xxx"] * len(places) + ["aft"]
    for record in records:
        assert len(record["msg"]) <= 8192
        # A beginning that is cut before the first full stop is no JWT any more, nor can it be used as one.
        assert "SECRET.SECRET" not in record["msg"]


def test_hostile_lines_do_not_hold_up_logins(kiwi: Kiwi) -> None:
    """Lines as a client's URI can make them, on which a pattern could work for a tenth of a second each, cost next to nothing.

    With a quadratic pattern these would take minutes, in which nobody is served.
    """
    kiwi.set(restart_limit="=1")
    kiwi.behave({"print": ["?" * 8000, "eyJ-" * 2000, "a?b" * 2600, "token=a(" * 1000] * 500, "exit": 1})
    kiwi.start()
    assert kiwi.wait() == 69
    assert len(kiwi.logs(component="kanidmd")) == 2000


def test_a_flood_of_output_is_read_to_its_last_line(kiwi: Kiwi) -> None:
    """Twenty thousand lines, and bytes that are no UTF-8, are all logged in order, and the child is not held up by its pipe."""
    kiwi.behave({"print": [f"line {number} {'x' * 80}" for number in range(20_000)] + ["\udcff\udcfe end"]})
    kiwi.start_ready()
    eventually(lambda: " end" in kiwi.text(), "the last line")  # its pipe may hold some after it has become ready
    *lines, last = [record["msg"] for record in kiwi.logs(component="kanidmd")]
    assert [line.split()[1] for line in lines] == [str(number) for number in range(20_000)]
    assert last == "\ufffd\ufffd end"
    assert kiwi.get()[0] == 200


def test_the_last_words_of_a_dying_child_are_kept(kiwi: Kiwi) -> None:
    """What the child printed just before its end is read, even while a grandchild holds the pipe open."""
    kiwi.behave({"grandchild": "session", "print": [f"words {number}" for number in range(400)], "exit": 1})
    kiwi.set(restart_limit="=1")
    kiwi.start()
    assert kiwi.wait() == 69
    assert [record["msg"] for record in kiwi.logs(component="kanidmd")] == [f"words {number}" for number in range(400)]


def test_the_log_file_is_reopened_on_hup(kiwi: Kiwi) -> None:
    """After a rotation and a HUP records go to a new file, 0640, and the old one is left alone."""
    file, rotated = kiwi.directory / "kiwi.log", kiwi.directory / "kiwi.log.1"
    kiwi.set(log_file=str(file))
    kiwi.start_ready()
    assert '"msg":"ready"' in file.read_text()
    file.rename(rotated)
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("reloaded")
    old = rotated.read_text()
    kiwi.get()
    assert kiwi.stop() == 0
    assert '"msg":"reloaded"' in file.read_text()
    assert '"msg":"stopped"' in file.read_text()
    assert rotated.read_text() == old
    assert file.stat().st_mode & 0o777 == 0o640
    assert old.splitlines()[0] == kiwi.text().splitlines()[0]
