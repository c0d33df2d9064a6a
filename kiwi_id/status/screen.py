"""One screen of the document for a person: what to do first, then how it stands, then what can wait."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from kiwi_id.cli.shared import shown
from kiwi_id.instance.access import user_name
from kiwi_id.status.document import Document

LABEL = 14
"""Width of the column of names."""
RESTARTS = 5
"""Restarts shown; ``--json`` has them all."""
_RED, _GREEN, _YELLOW, _BOLD, _FAINT = "31", "32", "33", "1", "2"


class Screen:
    """The lines of a document, at most ``width`` characters wide but for what cannot be broken, such as a path."""

    def __init__(self, document: Document, *, width: int, colour: bool) -> None:
        self._document, self._width, self._colour = document, width, colour

    def lines(self) -> Iterator[str]:
        """Yield the screen, line by line."""
        document = self._document
        yield self._title()
        for notice in document["warnings"]:
            yield from self._notice(notice, "!", _RED)
        yield ""
        if document["running"]:
            yield from self._running()
        if "keys" in document:
            yield from self._files()
        yield from self._kanidm()
        yield from self._row("config", document["config"])
        if document["hints"]:
            yield ""
            yield "When there is time:"
            for notice in document["hints"]:
                yield from self._notice(notice, "-", _YELLOW)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _wrap(self, text: str, first: str, rest: str) -> list[str]:
        return textwrap.wrap(
            shown(text), self._width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        ) or [first]

    def _notice(self, notice: dict[str, str], mark: str, code: str) -> Iterator[str]:
        head, *more = self._wrap(notice["text"].replace("\n", " "), f" {mark} ", "   ")
        yield self._paint(head[:2], code) + head[2:]
        yield from more
        for line in self._wrap(notice["fix"], "   → ", "     ") if notice["fix"] else ():
            yield self._paint(line, _FAINT)

    def _row(self, label: str, text: str) -> Iterator[str]:
        yield from self._wrap(text, f"{label:<{LABEL}}", " " * LABEL)

    def _title(self) -> str:
        document = self._document
        warned = f", {plural(len(document['warnings']), 'warning')}" if document["warnings"] else ""
        about = f"Kiwi ID {document['version']}" if "version" in document else "Kiwi ID"
        about += f" for {document['domain']}" if document.get("domain") else ""
        state, code = ("serving", _GREEN) if document["serving"] else ("NOT SERVING", _RED)
        if not document["running"]:
            codes = {notice["code"] for notice in document["warnings"]}
            state = "not running" if "not_running" in codes else "no answer"
        state = "stopping" if document.get("draining") else state
        return f"{self._paint(about, _BOLD)}: {self._paint(state, code)}{warned}"

    def _running(self) -> Iterator[str]:
        document = self._document
        upstream, now = document["upstream"], _moment(document["at"])
        process = f", process {upstream['pid']}" if upstream["pid"] else ""
        for_long = duration(now.timestamp() - upstream["started"])
        state = upstream["state"] if upstream["state"] == "ready" else f"{upstream['state']} since {clock(upstream['since'])}"
        yield from self._row("kanidmd", f"{upstream['version']}{process}, up {for_long}, {state}")
        planned = sum(ended["planned"] for ended in upstream["history"])
        counts = f"{upstream['restarts']} unplanned" + (
            f", {planned} planned of the last {len(upstream['history'])}" if planned else ""
        )
        yield from self._row("restarts", counts if upstream["restarts"] or planned else "none")
        for ended in list(upstream["history"])[: -RESTARTS - 1 : -1]:
            yield from self._row("", f"{clock(ended['at'])}  {'planned: ' if ended['planned'] else ''}{ended['reason']}")
        yield from self._row(
            "Kiwi ID", f"process {document['pid']} as {user_name(document['uid'])}, up {duration(document['uptime'])}"
        )
        scheme = "https" if document["tls"] else "plain HTTP"
        yield from self._row("listening", f"{', '.join(document['listening'])} ({scheme})")
        yield from self._row("clients", f"{document['connections']} connected, {document['waiting']} waiting for kanidmd")
        refused = {**document["refused"], **document["protection"]["refused"]}
        yield from self._row("refused", ", ".join(f"{kind} {count}" for kind, count in refused.items()) or "nothing")
        failures = document["protection"]["failures"]
        yield from self._row("failures", f"{failures['login']} wrong logins, {failures['token']} refused token requests")
        if last := document["last_reload"]:
            yield from self._row("last reload", f"{clock(last['at'])}, {'worked' if last['ok'] else 'failed: see the log'}")

    def _files(self) -> Iterator[str]:
        document = self._document
        now = _moment(document["at"])
        yield from self._keys()
        label = "certificates"
        for name, part in document["certificates"].items():
            if part is not None:
                ours = ", renewed by Kiwi ID" if part.get("renewed_by_kiwi_id") else ""
                text = part.get("error") or f"until {day(part['not_after'])}, {part['days_left']:.0f} days{ours}"
                yield from self._row(label, f"{name} {text}")
                label = ""
        yield from self._row("account", self._account())
        yield from self._row("state file", self._state_file())
        if document["identities"]["exists"]:
            yield from self._row("", document["identities"]["file"])
        backup = document["backup"]
        if backup.get("error") or not backup["last"]:
            yield from self._row("backup", backup.get("error") or backup["doubt"] or "none")
        else:
            last = backup["last"]
            sealed = ", encrypted" if last["encrypted"] else ""
            gone = "" if last["there"] else " (not there any more)"
            ago = "in the future" if backup["doubt"] else f"{duration((now - _moment(last['made'])).total_seconds())} ago"
            yield from self._row("backup", f"{clock(last['made'])}, {ago}, {size(last['size'])}, read back{sealed}")
            yield from self._row("", f"{last['path']}{gone}")
        disk = document["disk"]
        text = disk.get("error") or f"{size(disk['free'])} of {size(disk['total'])} free, database {size(disk['database'])}"
        yield from self._row("disk", text)

    def _keys(self) -> Iterator[str]:
        keys = self._document["keys"]
        if "error" in keys:
            yield from self._row("keys", keys["error"])
            return
        for number, key in enumerate(keys["set"]):
            age = f"{key['age_days']:.0f} days"
            note = {
                "next": f"can sign from {day(key.get('ready'))}",
                "retired": f"published until {day(key.get('published_until'))}",
                "current": f"rotates {day(key['rotates'])}" if "rotates" in key else "no rotation set",
            }[key["state"]]
            kind = f"RSA {key['bits']}" if key["algorithm"] == "RS256" else key["algorithm"]
            yield from self._row("" if number else "keys", f"{key['state']:<8}{key['kid'][:12]}…  {kind}, {age}, {note}")

    def _account(self) -> str:
        told = self._document.get("provisioning", {}).get("account")
        if told and not told["error"]:
            return f"kiwi_id, {'made at this start' if told['state'] == 'made' else 'in order'}"
        if told:
            return f"none: {told['state']}"
        return "kiwi_id (by its token; not asked)" if self._document["account"]["token"] else "none; to make it: kiwi-id bootstrap"

    def _state_file(self) -> str:
        identities, told = self._document["identities"], self._document.get("provisioning", {})
        if identities["mistakes"]:
            return f"{plural(len(identities['mistakes']), 'mistake')}: not applied"
        if not identities["exists"]:
            return f"none ({identities['file']})"
        if identities["apply_on_start"] and told.get("busy"):
            return "being applied"
        applied = identities["applied"]
        if not applied:
            by_hand = "applied by hand only (apply_on_start)"
            return "applied at the next start or reload" if identities["apply_on_start"] else by_hand
        verb = "failed" if applied["error"] else "applied by hand" if applied["by_hand"] else "applied"
        nothing = "nothing done" if applied["error"] else "nothing to do"
        done = f"{verb} {clock(applied['at'])}: {plural(applied['steps'], 'step') if applied['steps'] else nothing}"
        open_ends = (("refused", "refused"), ("left_alone", "not ours"), ("held_back", "held back"))
        return done + "".join(f", {len(applied[name])} {words}" for name, words in open_ends if applied[name])

    def _kanidm(self) -> Iterator[str]:
        kanidm = self._document["kanidm"]
        if kanidm["version"] is None:
            return
        tested = "" if kanidm["tested"] else ", not tested with this Kiwi ID"
        until = kanidm["supported_until"]
        over = until is not None and until < self._document["at"][:10]
        support = f"{'unsupported since' if over else 'supported until'} {until}" if until else "support unknown"
        yield from self._row("Kanidm", f"{kanidm['version']}{tested}, {support}")
        count = plural(len(kanidm["advisories"]), "known fault") if kanidm["advisories"] else "no known faults"
        yield from self._row("", f"{count} (list of {kanidm['advisories_date']})")


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def clock(at: float | str) -> str:
    """Return a moment, in seconds since 1970 or RFC 3339, as people of this machine's time zone read it."""
    moment = _moment(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def day(stamp: str | None) -> str:
    """Return the day of a moment in RFC 3339."""
    return f"{_moment(stamp).astimezone():%Y-%m-%d}" if stamp else ""


def duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    seconds = max(0, round(seconds))
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // part} {smaller}"
    return f"{seconds} s"


def plural(count: int, word: str) -> str:
    """Return a number with its word."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def size(count: int) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1 << (10 * power):
            return f"{count / (1 << (10 * power)):.1f} {unit}"
    return f"{count} B"
