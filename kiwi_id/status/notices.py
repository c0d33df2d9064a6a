"""What somebody should do something about: from a running Kiwi ID's answer, from its files, and from the known faults of Kanidm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from kiwi_id import __version__, compatibility
from kiwi_id.errors import Problem
from kiwi_id.instance.checks import Finding
from kiwi_id.status import advisories
from kiwi_id.status.advisories import SEVERITIES, numbers

Level = Literal["warning", "hint"]
SERVING = ("ready", "unhealthy", "restarting")
RECENT = timedelta(hours=1)
"""How long a restart that nobody planned is worth a warning."""
LITTLE_ROOM = 256 << 20
"""Bytes below which a disk is told to be filling, or twice the database, whichever is more: what a migration of Kanidm's writes."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to be done. ``code`` is for programs and stays; ``text`` and ``fix`` are for people. A ``hint`` can wait."""

    level: Level
    code: str
    text: str
    fix: str

    def as_dict(self) -> dict[str, str]:
        """Return it JSON-ready."""
        return asdict(self)


def of_running(answer: Mapping[str, Any], now: datetime) -> Iterator[Notice]:
    """Yield what a running Kiwi ID's answer over the control socket calls for."""
    upstream = answer["upstream"]
    if upstream["state"] not in SERVING:
        fix = "See why in the log (component child and kanidmd); clients wait at the gate meanwhile."
        yield Notice("warning", "not_serving", f"kanidmd does not serve: it is {upstream['state']}", fix)
    elif upstream["state"] == "unhealthy":
        fix = "It is restarted by itself when that goes on. Is the machine overloaded, or its disk?"
        yield Notice("warning", "unhealthy", "kanidmd does not answer its probes", fix)
    crashes = [ended for ended in upstream["history"] if not ended["planned"]]
    recent = [ended for ended in crashes if now.timestamp() - ended["at"] < RECENT.total_seconds()]
    if recent:
        count = "once" if len(recent) == 1 else f"{len(recent)} times"
        fix = "See kanidmd's last lines before it in the log."
        yield Notice("warning", "restarts", f"kanidmd ended {count} within an hour, last: {recent[-1]['reason']}", fix)
    if (last := answer["last_reload"]) and last["problems"]:
        text = f"the last reload was refused, the configuration before it is in force ({len(last['problems'])} problems)"
        yield Notice("warning", "reload_refused", text, "To see them and try again: kiwi-id reload --wait")
    if answer["version"] != __version__:
        text = f"Kiwi ID {answer['version']} runs, and {__version__} is installed"
        yield Notice("hint", "other_version", text, "Restart Kiwi ID when it suits.")
    if last and last["needs_restart"]:
        text = f"these settings wait for the next start of Kiwi ID: {', '.join(last['needs_restart'])}"
        yield Notice("hint", "needs_restart", text, "Restart Kiwi ID when it suits.")
    yield from _of_provisioning(answer["provisioning"])
    for row in answer["client_secrets"]["problems"]:
        if row not in answer["provisioning"]["mistakes"]:
            problem = Problem(**row)
            text = f"chosen client secrets: {problem.where}: {f'{problem.key}: ' if problem.key else ''}{problem.found}"
            yield Notice("warning", "client_secret", text, f"{problem.fix} Then: kiwi-id reload".strip())


def of_silence(holder: str, *, denied: bool) -> Iterator[Notice]:
    """Yield what it means that no Kiwi ID answers; ``holder`` has its database, ``denied``: we may not ask."""
    if denied:
        fix = "Run this as root, or as the user that Kiwi ID runs as."
        yield Notice("warning", "not_permitted", "this user may not ask Kiwi ID how it is", fix)
    elif holder:
        text = f"Kiwi ID runs (process {holder} has the database), and does not answer on its control socket"
        yield Notice("warning", "not_answering", text, "Is this its config? See 'no control socket' in its log.")
    else:
        fix = "Start it: systemctl start kiwi-id, or kiwi-id run; why it ended is in its log (journalctl -u kiwi-id)."
        yield Notice("warning", "not_running", "no Kiwi ID runs here: nobody can log in", fix)


def _of_provisioning(told: Mapping[str, Any]) -> Iterator[Notice]:
    account = told["account"]
    if account and account["error"]:
        code = "account_consent" if account["state"] == "consent needed" else "account_failed"
        yield Notice("warning", code, "Kiwi ID has no account in this Kanidm: " + account["error"], "")
    elif account and account["missing_groups"]:
        text = f"Kiwi ID's account is not in {', '.join(account['missing_groups'])}: some commands are refused"
        yield Notice("hint", "account_groups", text, "To put it there: kiwi-id bootstrap --ask-password")


def of_applied(identities: Mapping[str, Any], account: Mapping[str, Any] | None) -> Iterator[Notice]:
    """Yield what came of the latest apply, as far as ``identities["mistakes"]`` and ``account`` do not tell it already."""
    applied = identities["applied"]
    if applied is None:
        return
    if applied["error"] and not identities["mistakes"] and not (account and account["error"]):
        yield Notice(
            "warning", "state_file_not_applied", f"the state file was not applied: {applied['error']}", "Then: kiwi-id reload"
        )
    if applied["refused"]:
        text = f"Kanidm refused {len(applied['refused'])} steps of the state file, first: {applied['refused'][0]}"
        yield Notice("warning", "state_file_refused", text, "Mend the file, then: kiwi-id apply")
    if names := applied["left_alone"]:
        text = f"the state file names what is not ours, so it is left alone: {', '.join(names[:5])}{' …' if names[5:] else ''}"
        yield Notice("warning", "state_file_not_ours", text, "To see why, and what to do: kiwi-id plan")
    if held := applied["held_back"]:
        text = f"{len(held)} entries of the state file are not done, first: {held[0]}"
        yield Notice("warning", "state_file_held_back", text, "To see all: kiwi-id plan")


def of_version(version: str, now: datetime, *, ldap: bool) -> Iterator[Notice]:
    """Yield what is known of a version of Kanidm: the end of its support, and faults that are mended in another."""
    known = advisories.load()
    until = known.supported_until(version)
    if until is not None and until < now.date():
        text = f"Kanidm {version} is not supported by its makers since {until}: new faults in it are not mended"
        yield Notice("warning", "kanidm_unsupported", text, _upgrade(version))
    found = known.for_version(version, ldap=ldap)
    if found:
        worst = found[0].severity
        count = "one known fault" if len(found) == 1 else f"{len(found)} known faults"
        ids = ", ".join(one.id for one in found)
        level: Level = "warning" if SEVERITIES.index(worst) >= SEVERITIES.index("moderate") else "hint"
        text = f"Kanidm {version} has {count}, the worst {worst}: {ids} (list of {known.date})"
        yield Notice(level, "kanidm_advisories", text, f"{_mended(version, ldap=ldap)} What each is: docs/status.md")


def _mended(version: str, *, ldap: bool) -> str:
    """Say which versions mend what is known of one: the newest that this release was tested with, and the newest of all."""
    known = advisories.load()
    words = []
    for target, what in ((compatibility.tested_versions()[-1], "tested with this Kiwi ID"), (known.newest, "the newest")):
        if numbers(target) > numbers(version):
            left = len(known.for_version(target, ldap=ldap))
            words.append(f"{target} ({what}) has {left or 'none'} of them.")
    return " ".join(words) or "No release mends them yet."


def _upgrade(version: str) -> str:
    """Say where to go from a version: Kanidm upgrades one minor version at a time (book/src/support.md)."""
    known = advisories.load()
    tested = [one for one in compatibility.tested_versions() if numbers(one) > numbers(version)]
    target = tested[-1] if tested else known.newest
    untested = "" if tested else ", which this Kiwi ID was not tested with (allow_untested)"
    fix = f"Back up, then upgrade to {target}{untested}"
    between = [minor for minor in known.releases if numbers(version)[:2] < numbers(minor) < numbers(target)[:2]]
    steps = f", one minor version at a time: {', '.join(between)}" if between else ""
    return fix + steps + "."


def of_files(parts: Mapping[str, Any]) -> Iterator[Notice]:
    """Yield what an instance's files call for; ``parts`` are those of :func:`kiwi_id.status.files.look`."""
    backup, disk = parts["backup"], parts["disk"]
    if "error" not in backup and backup["interval_hours"] is not None:
        every = "systemctl enable --now kiwi-id-backup.timer (docs/backup.md)"
        if backup["doubt"]:
            yield Notice("warning", "backup_unknown", backup["doubt"], "Make one: kiwi-id backup DIR")
        elif backup["late"] and backup["last"]:
            text = f"the last backup is {backup['age_hours'] / 24:.0f} days old, and there is to be one every {_time(backup)}"
            yield Notice("warning", "backup_late", text, "See why: systemctl status kiwi-id-backup; make one: kiwi-id backup DIR")
        elif backup["late"]:
            yield Notice("warning", "backup_none", "there is no backup", f"{every}, or make one: kiwi-id backup DIR")
        elif backup["last"] is None:
            yield Notice("hint", "backup_none", "there is no backup yet", every)
    if "error" not in disk and disk["free"] < max(LITTLE_ROOM, 2 * disk["database"]):
        text = f"the disk of the database has {disk['free'] >> 20} MiB left"
        yield Notice("warning", "disk", text, f"Make room at {disk['path']}: Kanidm cannot write without.")
    kanidmd = parts["certificates"]["kanidmd"]
    # Others than ours are a finding of the check; ours are renewed a month ahead, so this is a renewal that fails.
    if kanidmd and kanidmd.get("renewed_by_kiwi_id") and kanidmd["days_left"] < 21:
        text = f"kanidmd's certificate ends in {max(kanidmd['days_left'], 0):.0f} days and was not renewed"
        yield Notice("warning", "certificate", text, f"May Kiwi ID write to the directory of {kanidmd['file']}? See its log.")


def _time(backup: Mapping[str, Any]) -> str:
    hours = backup["interval_hours"]
    return f"{hours:g} h" if hours < 48 else f"{hours / 24:g} days"


def of_findings(findings: list[Finding], *, running: bool, denied: bool) -> Iterator[Notice]:
    """Yield what ``kiwi-id check`` finds: what would stop the next start, and its warnings; ``denied``: who asks may not look."""
    for finding in findings:
        if finding.area == "rights":
            if not denied:  # else it is told already
                yield Notice("warning", "check_rights", finding.message, "")
        elif finding.status != "ok":
            problem = finding.problem
            text = (
                finding.message
                if problem is None
                else f"{problem.where}: {f'{problem.key}: ' if problem.key else ''}{problem.found}"
            )
            if finding.status == "wrong":
                text = f"{text} ({'the next start or reload' if running else 'a start'} is refused)"
            fix = "" if problem is None else problem.fix or (f"Allowed: {problem.allowed}." if problem.allowed else "")
            yield Notice("warning", f"check_{finding.area.replace(' ', '_').replace('.', '_')}", text, fix)
