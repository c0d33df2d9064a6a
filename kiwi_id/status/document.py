"""Everything that ``kiwi-id status`` knows, as one JSON-ready document; docs/status.md describes its members, which stay."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kiwi_id import compatibility, config
from kiwi_id.errors import ConfigError
from kiwi_id.instance import checks
from kiwi_id.kanidm import server_toml
from kiwi_id.status import advisories, files, notices, weak
from kiwi_id.status.notices import Notice

FORMAT = 1
"""Raised when a member changes its meaning or goes; new ones come without."""
Document = dict[str, Any]


def make(file: Path, answer: dict[str, Any] | None, now: datetime | None = None, *, denied: bool = False) -> Document:
    """Return the document of the instance of config file ``file``; ``answer`` is that of its running Kiwi ID.

    It is None when none answers; ``denied``: because we may not ask. Never raises KiwiError: what cannot be told is told to be so.
    """
    now = now or datetime.now(UTC)
    told = {name: value for name, value in (answer or {}).items() if name not in ("ok", "config")}
    upstream = told.get("upstream", {})
    provisioning = told.get("provisioning", {"account": None, "applied": None, "mistakes": []})
    found: list[Notice] = list(notices.of_running(answer, now)) if answer else []
    document: Document = {
        "format": FORMAT,
        "ok": False,
        "at": files.stamp(now),
        "running": answer is not None,
        "serving": upstream.get("state") in ("ready", "unhealthy") and not told.get("draining"),
        "config": str(file),
        **told,
    }
    # What is told of the running Kiwi ID (notices.of_running) is not told again of its files.
    told_already = [row for row in told.get("client_secrets", {}).get("problems", ()) if row not in provisioning["mistakes"]]
    findings = checks.check(file, allow_untested=True)
    findings = [one for one in findings if one.problem is None or one.problem.as_dict() not in told_already]
    found += notices.of_findings(findings, running=answer is not None, denied=denied)
    version = upstream.get("version") or ""
    try:
        settings = config.load(file)
    except ConfigError:  # the check has told
        ldap = False
        holder = ""
        identities = {"mistakes": provisioning["mistakes"], "applied": _latest(None, provisioning["applied"])}
    else:
        server = server_toml.examine(settings.upstream_config, settings)[0]
        ldap = bool(server and server.ldap)
        holder = checks.lock_holder(server.db_path) if server else ""
        parts = files.look(settings, server, now)
        identities = parts["identities"]
        identities["applied"] = _latest(identities["applied"], provisioning["applied"])
        document |= parts
        version = version or _installed(settings)
        found += notices.of_files(parts)
        found += weak.look(settings, server, parts, now, uid=told.get("uid", os.getuid()))
    found += notices.of_applied(identities, provisioning["account"])
    if answer is None:
        found[:0] = notices.of_silence(holder, denied=denied)
    document["kanidm"] = _kanidm(version, ldap=ldap)
    found += notices.of_version(version, now, ldap=ldap) if version else ()
    for level, member in (("warning", "warnings"), ("hint", "hints")):
        document[member] = [notice.as_dict() for notice in dict.fromkeys(found) if notice.level == level]
    document["ok"] = document["serving"] and not document["warnings"]
    return document


def _latest(by_hand: dict[str, Any] | None, by_itself: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the later of two applies: that of which a command left word, and that of the running Kiwi ID."""
    if by_itself is None or by_itself["absent"] or (by_hand is not None and by_hand["at"] > by_itself["at"]):
        return by_hand
    return by_itself | {"by_hand": False}


def _installed(settings: config.Config) -> str:
    """Return the version of the kanidmd that a start would run, nothing when it cannot be told."""
    try:
        return compatibility.inspect(settings, allow_untested=True).version
    except ConfigError:
        return ""


def _kanidm(version: str, *, ldap: bool) -> dict[str, Any]:
    known = advisories.load()
    until = known.supported_until(version) if version else None
    return {
        "version": version or None,
        "tested": version in compatibility.tested_versions() if version else None,
        "supported_until": str(until) if until else None,
        "newest_known": known.newest,
        "advisories": [one.as_dict() for one in known.for_version(version, ldap=ldap)] if version else [],
        "advisories_date": str(known.date),
    }
