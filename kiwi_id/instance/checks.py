"""Everything that would stop a start, found without starting anything: what ``kiwi-id check`` prints.

``kanidmd configtest`` is deliberately not used: it migrates and commits the real database (server/core/src/lib.rs).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kiwi_id import compatibility, config, control
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.identities.secret_files import of_state_file
from kiwi_id.instance import access, certs
from kiwi_id.instance.holders import listeners
from kiwi_id.instance.layout import SOCKET_PATH_MAX
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.privileges import find_account
from kiwi_id.provisioner import mistakes_of
from kiwi_id.values import Address

Status = Literal["ok", "warning", "wrong"]
CONTROL_TIMEOUT = 2.0  # seconds; a healthy supervisor answers in milliseconds


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: ``area`` (config, binary, …), ``status``, and words; ``problem`` when it is not ok."""

    area: str
    status: Status
    message: str
    problem: Problem | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        problem = self.problem.as_dict() if self.problem else None
        return {"area": self.area, "status": self.status, "message": self.message, "problem": problem}


def check(file: Path, *, allow_untested: bool = False, now: datetime | None = None) -> list[Finding]:
    """Check the instance of the config file ``file``; return every finding, in the order of a start. Never raises KiwiError."""
    try:
        instance = config.load(file)
    except ConfigError as error:
        closed = os.geteuid() != 0 and access.is_closed(file)
        return [Finding("rights", "wrong", access.refusal(str(file)))] if closed else _wrong("config", error.problems)
    findings = [Finding("config", "ok", f"{file}")]
    if access.is_stranger(instance):
        return [*findings, Finding("rights", "wrong", access.refusal("kanidmd, keys, state file, ports and directories"))]
    server, problems, warned = server_toml.examine(instance.upstream_config, instance)
    ok = f"{server.path}: domain {server.domain}, origin {server.origin}" if server else ""
    findings += _report("server.toml", problems, warned, ok)
    findings += _binary(instance, server, allow_untested)
    findings += _report("signing keys", *_signing_keys(instance), f"{instance.jwt_private_key}, {instance.jwt_public_key.name}")
    if instance.tls_cert and instance.tls_key:
        shared = server and instance.tls_cert == server.tls_chain  # which is renewed at a start
        findings += _tls("listener TLS", instance.tls_cert, instance.tls_key, now, pinned=bool(shared))
    if server:
        findings += _tls("upstream TLS", server.tls_chain, server.tls_key, now, pinned=True)
    if instance.forward_auth_client and server:
        ok = f"client {instance.forward_auth_client}, for {', '.join(instance.forward_auth_hosts)}"
        findings += _report("forward-auth", _forward_auth(instance, server), [], ok)
    if instance.apply_on_start:
        # Warnings: a mistake there stops no start, only that apply.
        findings += _report("state file", [], mistakes_of(instance), f"{instance.identities_file}, if it is there")
    findings += _chosen_secrets(instance, now or datetime.now(UTC))
    findings += _ports(instance, server)
    findings += _privileges(instance, server)
    findings += _directories(instance, server)
    return findings


def running(control_socket: Path) -> dict[str, Any] | None:
    """Ask the supervisor on ``control_socket`` for its status; None when no Kiwi ID answers within 2 s."""
    try:
        answer = control.call(control_socket, "status", timeout=CONTROL_TIMEOUT)
    except control.NotRunning:
        return None
    return answer if isinstance(answer, dict) and answer.get("ok") is True else None


def _signing_keys(instance: Config) -> tuple[list[Problem], list[Problem]]:
    from kiwi_id.issuer.keys import load, strangers  # noqa: PLC0415 - PyJWT and cryptography

    try:
        load(instance.jwt_private_key, instance.jwt_public_key, instance.keys_dir, prove=True)
        return [], strangers(instance.keys_dir)
    except ConfigError as error:
        return error.problems, []


def _forward_auth(instance: Config, server: ServerToml) -> list[Problem]:
    try:
        Rules.of(instance, instance.issuer or server.origin)
    except ConfigError as error:
        return error.problems
    return []


def _chosen_secrets(instance: Config, now: datetime) -> list[Finding]:
    """Tell which client secrets were chosen, and warn of those that cannot be used: they stop no start, only their clients."""
    read = of_state_file(instance.identities_file, now, wanted=False)
    if not read.chosen:
        known = instance.apply_on_start  # then the mistakes of the state file were told by themselves
        return [] if known else _wrong("chosen secrets", read.problems, "warning")
    warned = list(read.problems)
    if _mode(instance.kanidm_token) is None and not instance.bootstrap:
        fix = "Make it: kiwi-id bootstrap. Without it nobody can log in to these clients."
        warned.append(Problem(str(instance.kanidm_token), "", "no account of Kiwi ID's in Kanidm", "", fix))
    return _report("chosen secrets", [], warned, f"of {', '.join(sorted(read.chosen))}")


def _wrong(area: str, problems: list[Problem], status: Status = "wrong") -> list[Finding]:
    return [Finding(area, status, str(problem), problem) for problem in problems]


def _report(area: str, problems: list[Problem], warned: list[Problem], ok: str) -> list[Finding]:
    found = _wrong(area, problems) + _wrong(area, warned, "warning")
    return found or [Finding(area, "ok", ok)]


def _binary(instance: Config, server: ServerToml | None, allow_untested: bool) -> list[Finding]:
    try:
        binary = compatibility.inspect(instance, allow_untested=allow_untested)
    except ConfigError as error:
        return _wrong("binary", error.problems)
    where = str(binary.path)
    problems: list[Problem] = []
    warned: list[Problem] = []
    if server and server.version == 2 and tuple(map(int, binary.version.split(".")[:2])) < (1, 6):
        found = f'"2", which kanidmd {binary.version} does not know'
        fix = "Write the flat format (trust_x_forward_for instead of [http_client_address_info], no version)."
        problems.append(Problem(str(server.path), "version", found, "no such key before Kanidm 1.6", fix))
    if not binary.tested:
        tested = ", ".join(compatibility.tested_versions())
        warned.append(Problem(where, "", f"kanidmd {binary.version}, untested but allowed", f"{tested} are tested", ""))
    if not binary.pinned:
        text = f"kanidmd {binary.version}, without a pin: a swapped binary would be started"
        warned.append(Problem(where, "", text, "", "Run 'kiwi-id pin'."))
    return _report("binary", problems, warned, f"{where}: kanidmd {binary.version}, as pinned (sha256:{binary.sha256[:12]}…)")


def _tls(area: str, chain: Path, key: Path, now: datetime | None, *, pinned: bool = False) -> list[Finding]:
    problems = certs.check_tls(chain, key)
    warned = [] if problems else certs.tls_warnings(chain, key, now=now, pinned=pinned)
    own = " (made and renewed by Kiwi ID)" if pinned and certs.is_loopback_file(chain) else ""
    return _report(area, problems, warned, f"{chain}{own}")


def _ports(instance: Config, server: ServerToml | None) -> list[Finding]:
    status = running(instance.control_socket)
    addresses = [("listen_addr", instance.listen_addr)]
    addresses += [("bindaddress", bind) for bind in server.bind_addresses] if server else []
    if status is not None:
        pid = f" (process {status['pid']})" if isinstance(status.get("pid"), int) else ""
        return [Finding("ports", "ok", f"{address}: in use by a running Kiwi ID{pid}") for _, address in addresses]
    findings: list[Finding] = []
    for key, address in addresses:
        where = instance.path if key == "listen_addr" else instance.upstream_config
        problem = _bind_problem(str(where), key, address)
        if problem and key == "listen_addr" and set(listeners(address.port).values()) == {"systemd"}:
            # It is handed over at the start; whether by our unit or for another program, only systemd knows.
            text = f"{address}: held by systemd, as it is with kiwi-id.socket ('systemctl list-sockets' tells whose it is)"
            findings.append(Finding("ports", "ok", text))
            continue
        findings += _wrong("ports", [problem]) if problem else [Finding("ports", "ok", f"{address}: free")]
    return findings


def _bind_problem(where: str, key: str, address: Address) -> Problem | None:
    """Bind ``address`` for a moment, without listening: nobody can connect meanwhile, and TIME_WAIT is no obstacle."""
    try:
        rows = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, target in rows:
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(target)
    except OSError as error:
        fixes = {
            errno.EADDRINUSE: f"Find who has it: ss -ltnp 'sport = :{address.port}'. systemd, for kiwi-id.socket: all is well.",
            errno.EADDRNOTAVAIL: "No interface of this machine has the address: add it, or choose another.",
            errno.EACCES: "Ports below 1024 need CAP_NET_BIND_SERVICE.",
        }
        found = f"{address}, which cannot be bound: {(error.strerror or str(error)).lower()}"
        return Problem(where, key, found, "a free address of this machine", fixes.get(error.errno or 0, ""))
    return None


def _privileges(instance: Config, server: ServerToml | None) -> list[Finding]:
    """Tell who can read what is secret, and whether kanidmd's own user has what it needs and no more."""
    area = "privileges"
    try:
        account = find_account(instance.upstream_user, instance.upstream_group, instance.path)
        found = access.problems(instance, server, account) if account and server else []
    except ConfigError as error:
        return _wrong(area, error.problems)
    runs = (
        f"kanidmd runs as {account.name}, apart from Kiwi ID" if account else "kanidmd runs as the user of Kiwi ID (upstream_user)"
    )
    secret = [*access.secrets(instance), *([server.tls_key, server.db_path.parent, server.db_path] if server else [])]
    readable = [f"{file} by {access.who_can_read(file)}" for file in dict.fromkeys(secret) if _mode(file) is not None]
    return [*_report(area, found, [], runs), Finding(area, "ok", f"readable: {'; '.join(readable)}")]


def _directories(instance: Config, server: ServerToml | None) -> list[Finding]:
    where = str(instance.path)
    problems: list[Problem] = []
    warned: list[Problem] = []
    if server and not instance.upstream_user:  # else they are for that user to write, which _privileges has told about
        directory = server.db_path.parent
        problems += _unwritable(str(server.path), "db_path", directory)
        sockets = server.admin_socket.parent  # kanidmd does not make it; Kiwi ID makes runtime_dir
        made = sockets == instance.runtime_dir
        problems += _unwritable(str(server.path), "adminbindpath", sockets, create=made)
        problems += _locked(server.db_path) if running(instance.control_socket) is None else []
        if _mode(server.db_path) is not None and not os.access(server.db_path, os.R_OK | os.W_OK):
            problems.append(Problem(str(server.db_path), "", "a database that this user may not write", "a writable file", ""))
        if stat.S_ISDIR(mode := _mode(directory) or 0) and mode & 0o007:
            text = f"mode {stat.S_IMODE(mode):04o}: every user can reach the database"
            warned.append(Problem(str(directory), "", text, "", f"chmod 0700 {directory}"))
    problems += _unwritable(where, "runtime_dir", instance.runtime_dir, create=True)
    if len(os.fsencode(instance.control_socket)) > SOCKET_PATH_MAX:
        found = f"{instance.control_socket}, too long for a socket"
        problems.append(Problem(where, "runtime_dir", found, f"{SOCKET_PATH_MAX} bytes with the socket's name", "Shorten it."))
    if instance.log_file:
        # Warnings: Kiwi ID starts, tells it on standard error, and tries again every few seconds.
        warned += _unwritable(where, "log_file", instance.log_file.parent)
        kind = _mode(instance.log_file)
        if kind is not None and not (stat.S_ISREG(kind) and os.access(instance.log_file, os.W_OK)):
            warned.append(Problem(where, "log_file", f"{instance.log_file}, not writable", "a writable file", ""))
    names = [server.db_path.parent] if server and not instance.upstream_user else []
    names += [instance.runtime_dir, *([instance.log_file.parent] if instance.log_file else [])]
    return _report("directories", problems, warned, ", ".join(map(str, names)) + ": writable")


def lock_holder(database: Path) -> str:
    """Return the process that holds the lock beside a database (:mod:`kiwi_id.lock`), "" when nobody does or it is not known."""
    try:
        with _lock_file(database).open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment; a start that meets it waits longer
            except BlockingIOError:
                return lock.read(32).decode("ascii", "replace").strip() or "unknown"
    except OSError:  # no lock file yet, or one that the start will tell about
        pass
    return ""


def _lock_file(database: Path) -> Path:
    return database.with_name(database.name + ".kiwi-lock")


def _locked(database: Path) -> list[Problem]:
    """Return a problem when another Kiwi ID holds the lock beside the database."""
    holder = lock_holder(database)
    fix = "Stop it first, or give this instance its own db_path."
    found = f"the lock of another Kiwi ID (process {holder})"
    return [Problem(str(_lock_file(database)), "", found, "nobody's lock", fix)] if holder else []


def _unwritable(where: str, key: str, directory: Path, *, create: bool = False) -> list[Problem]:
    """Return a problem unless ``directory`` is writable, or, with ``create``, can be made in its nearest existing parent."""
    there = directory
    while create and _mode(there) is None and there != there.parent:
        there = there.parent
    try:
        if not stat.S_ISDIR(there.stat().st_mode):
            return [Problem(where, key, f"{there}, not a directory", "an existing directory", f"mkdir -p {directory}")]
    except (FileNotFoundError, NotADirectoryError):
        return [Problem(where, key, f"{directory}, which does not exist", "an existing directory", f"mkdir -p {directory}")]
    except OSError as error:
        found = f"{directory}, which this user cannot look at: {(error.strerror or str(error)).lower()}"
        return [Problem(where, key, found, "a writable directory", "Run this as the user who runs Kiwi ID, or change its owner.")]
    if os.access(there, os.W_OK | os.X_OK):
        return []
    return [Problem(where, key, f"{there}, where this user may not write", "a writable directory", "Change its owner or mode.")]


def _mode(path: Path) -> int | None:
    """Return ``st_mode``; None when nothing is there, or this user may not enter the directory, which is told by itself.

    Not ``Path.exists``: up to Python 3.13 it raises PermissionError in that case.
    """
    try:
        return path.stat().st_mode
    except OSError:
        return None
