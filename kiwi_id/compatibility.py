"""Which kanidmd may be started: its version against what this release was tested with, its bytes against the instance's pin.

The packaged compatibility.toml names the tested versions. The instance's own, beside config.toml, records version and sha256 of
the binary that was there when somebody ran ``kiwi-id init`` or ``kiwi-id pin``. With a pin, a check reads the file and hashes the
binary, and starts no process: a running supervisor must not fork behind its reaper's back. The version is then the pin's, which
the checksum binds to these very bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kiwi_id import __version__
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance.files import read_file, write_atomic
from kiwi_id.toml import line_numbers
from kiwi_id.values import shown

UNPINNED = "sha256:pinned-per-instance"
"""The packaged file's checksum; in an instance's file (somebody copied the packaged one) it means: no pin yet."""

_VERSION_TIMEOUT = 10.0  # seconds; printing a version takes milliseconds, a cold disk some hundred
_CHECKSUM = re.compile(r"sha256:([0-9a-f]{64})")
# "kanidmd 1.5.0", and with the commit when built from a checkout: "kanidmd 1.5.0 d9f4dbdd3e" (daemon/src/main.rs, Version).
_VERSION_LINE = re.compile(r"^kanidmd (\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)(?:\s|$)", re.MULTILINE)
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")

Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Binary:
    """A kanidmd that may be started.

    ``sha256`` is 64 hexadecimal digits. ``pinned``: it matches the instance's pin. ``tested``: this release was tested with its
    version; when False, the operator has allowed it, and log and ``/healthz`` say so.
    """

    path: Path
    version: str
    sha256: str
    pinned: bool
    tested: bool


def packaged_file() -> Path:
    """Return the compatibility.toml of this release: inside the package when installed, else at the root of the checkout."""
    installed = Path(__file__).with_name("compatibility.toml")
    return installed if installed.exists() else Path(__file__).parent.parent / "compatibility.toml"


def tested_versions() -> tuple[str, ...]:
    """Return the Kanidm versions that this release was tested with, oldest first."""
    table = tomllib.loads(packaged_file().read_text(encoding="utf-8"))
    return tuple(table["tested"]["versions"])


def inspect(config: Config, *, allow_untested: bool = False) -> Binary:
    """Check ``config.upstream_bin`` and return what it is.

    Raises ConfigError when it is missing, no executable file, not what the pin says, or of an untested version without
    ``allow_untested`` here or in config.toml. Blocks: hashing takes about a tenth of a second; without a pin ``kanidmd version``
    is run besides, for 10 s at most.
    """
    return PinChecker(config, allow_untested=allow_untested).binary


class PinChecker:
    """Checks the binary once when made (see :func:`inspect`) and again, cheaply, before each later start of the child."""

    def __init__(self, config: Config, *, allow_untested: bool = False) -> None:
        self._config = config
        self._allow_untested = allow_untested or config.allow_untested
        pin = _load_pin(config.compatibility_file)
        self._signature, self._sha256 = _hash(config.upstream_bin)
        version = pin[0] if pin else _run_version(config.upstream_bin)
        if _signature(config.upstream_bin) != self._signature:
            raise _refuse(config.upstream_bin, "a file that changed while it was checked", "a settled file", "Try again.")
        self._version = version
        self.binary = self._judge(pin)

    def verify(self) -> Binary:
        """Check again; return the binary or raise ConfigError as :func:`inspect` does. Never starts a process.

        Bytes are read again only when device, inode, size or a time of the file changed. The pin is always read again, so that
        an upgrade of kanidmd followed by ``kiwi-id pin`` is accepted by a running supervisor. Without any pin, the binary that
        was first checked is the one that may be started: finding out the version of another would take a process.
        """
        path = self._config.upstream_bin
        pin = _load_pin(self._config.compatibility_file)
        if _signature(path) != self._signature:
            signature, digest = _hash(path)
            if pin is None and digest != self._sha256:
                found = f"another binary (sha256:{digest[:12]}…) than when Kiwi ID started"
                raise _refuse(path, found, f"sha256:{self._sha256}", "Run 'kiwi-id pin' to accept it, or restart Kiwi ID.")
            self._signature, self._sha256 = signature, digest
        if pin is not None:
            self._version = pin[0]
        self.binary = self._judge(pin)
        return self.binary

    def _judge(self, pin: tuple[str, str] | None) -> Binary:
        config, path = self._config, self._config.upstream_bin
        if pin is not None and pin[1] != self._sha256:
            allowed = f"the pin in {config.compatibility_file}: kanidmd {pin[0]}, sha256:{pin[1]}"
            fix = "If you replaced kanidmd on purpose, run 'kiwi-id pin'; if not, find out who did."
            raise _refuse(path, f"sha256:{self._sha256}", allowed, fix)
        tested = tested_versions()
        if self._version not in tested and not self._allow_untested:
            fix = "Use a tested version, or start with --allow-untested (allow_untested = true in config.toml)."
            raise _refuse(path, f"kanidmd {self._version}, an untested version", ", ".join(tested), fix)
        return Binary(path, self._version, self._sha256, pin is not None, self._version in tested)


def identify(path: Path) -> Binary:
    """Hash ``path`` and run ``kanidmd version``; return the result unpinned, whatever the version. Raises ConfigError."""
    signature, digest = _hash(path)
    version = _run_version(path)
    if _signature(path) != signature:
        raise _refuse(path, "a file that changed while it was checked", "a settled file", "Try again.")
    return Binary(path, version, digest, pinned=False, tested=version in tested_versions())


def write_pin(config: Config) -> Binary:
    """Record version and checksum of ``config.upstream_bin`` in ``config.compatibility_file`` (mode 0644, atomically).

    An untested version is recorded too; starting it stays refused without permission. Raises ConfigError when the binary is
    missing or does not tell its version, or when the file cannot be written.
    """
    binary = identify(config.upstream_bin)
    now = datetime.now(UTC).replace(microsecond=0)
    text = (
        "# Written by 'kiwi-id pin' (or 'kiwi-id init'): the kanidmd that this instance may start. After an upgrade of kanidmd,\n"
        "# run 'kiwi-id pin' again; until then the new binary is refused.\n\n"
        f'[upstream]\nname = "kanidm"\nversion = "{binary.version}"\nchecksum = "sha256:{binary.sha256}"\n\n'
        f'[wrapper]\nversion = "{__version__}"\n\n'
        f"[pinned]\nat = {now:%Y-%m-%dT%H:%M:%SZ}\n"
    )
    try:
        write_atomic(config.compatibility_file, text.encode(), 0o644)
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(config.compatibility_file), "", found, "a writable place for the pin", "")]) from None
    return Binary(binary.path, binary.version, binary.sha256, pinned=True, tested=binary.tested)


def _refuse(path: Path, found: str, allowed: str, fix: str) -> ConfigError:
    return ConfigError([Problem(str(path), "", found, allowed, fix)])


def _signature(path: Path) -> Signature:
    """Return what changes whenever the file does (ctime cannot be set back by a program). Raises ConfigError."""
    try:
        status = path.stat()
    except OSError as error:
        fix = "Install Kanidm there, or set upstream_bin in config.toml (or --upstream-bin of kiwi-id init)."
        raise _refuse(path, (error.strerror or str(error)).lower(), "the kanidmd program", fix) from None
    if not stat.S_ISREG(status.st_mode):
        raise _refuse(path, "not a regular file", "the kanidmd program", "")
    if not os.access(path, os.X_OK):
        found = f"a file that this user may not execute (mode {stat.S_IMODE(status.st_mode):04o})"
        raise _refuse(path, found, "an executable file", f"chmod 0755 {path}")
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _hash(path: Path) -> tuple[Signature, str]:
    signature = _signature(path)  # before reading: a change during the read is then seen as a change at the next check
    try:
        with path.open("rb") as file:
            return signature, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refuse(path, (error.strerror or str(error)).lower(), "a readable program", "") from None


def _run_version(path: Path) -> str:
    """Run ``kanidmd version`` (1.5.0 and 1.10.5 know no ``--version``) and return its number. Raises ConfigError."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}  # no inherited KANIDM_*: they are settings to kanidmd
    try:
        done = subprocess.run(
            [path, "version"],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _refuse(path, f"no answer to 'kanidmd version' within {_VERSION_TIMEOUT:g}s", "its version", "") from None
    except OSError as error:  # wrong architecture, missing loader
        fix = "Is it built for this machine?"
        raise _refuse(path, f"a program that does not run: {error.strerror or error}", "the kanidmd program", fix) from None
    match = _VERSION_LINE.search(done.stdout.decode(errors="replace"))
    if done.returncode != 0 or match is None:
        told = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        found = f"'kanidmd version' ended with {done.returncode} and printed {told[0][:80]!r}" if told else "no version printed"
        raise _refuse(path, found, "a line such as 'kanidmd 1.5.0'", "Is this really kanidmd?")
    return match[1]


def _load_pin(file: Path) -> tuple[str, str] | None:
    """Return (version, sha256 in hex) of the instance's pin, or None when there is none yet. Raises ConfigError.

    A pin that cannot be read is never taken for no pin: that would let anything in that can break a file.
    """
    fix = "Mend it, or run 'kiwi-id pin' to write it anew."
    try:
        text = read_file(file).decode("utf-8")
        table = tomllib.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # the last two: not UTF-8, or not TOML
        found = error.strerror or str(error) if isinstance(error, OSError) else f"not TOML: {error}"
        raise ConfigError([Problem(str(file), "", found, "a readable pin", fix)]) from None
    lines = line_numbers(text)
    upstream: Any = table.get("upstream")
    upstream = upstream if isinstance(upstream, dict) else {}
    if upstream.get("checksum") == UNPINNED:
        return None
    problems: list[Problem] = []
    rows = {"name": (re.compile("kanidm"), '"kanidm"'), "version": (_VERSION, '"1.5.0" or the like')}
    for key, (pattern, allowed) in {**rows, "checksum": (_CHECKSUM, '"sha256:" and 64 hexadecimal digits')}.items():
        value = upstream.get(key)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            where = f"{file}:{lines.get(f'upstream.{key}', lines.get('upstream', 1))}"
            problems.append(Problem(where, f"upstream.{key}", "nothing" if value is None else shown(value), allowed, fix))
    if problems:
        raise ConfigError(problems)
    return upstream["version"], upstream["checksum"].removeprefix("sha256:")
