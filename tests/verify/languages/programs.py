"""The programs of docs/verify-in-other-languages.md: taken from the page as they stand, built with its own commands, and run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/verify-in-other-languages.md"
FORMS = ("PEM file", "key set")
ARGUMENTS = ["jwt-public.pem", "https://id.example.com", "mail", "<", "token"]
PREPARE_SECONDS = 120.0  # what fetching packages and building them may take in the ordinary suite, beside other tests
ALL_SECONDS = 240.0  # and those of all languages together
ASKED_SECONDS = 600.0  # and when KIWI_TEST_LANGUAGES names the language
BUILD_SECONDS = 300.0
RUN_SECONDS = 60.0

_FILE = re.compile(r"^`([\w./]+)`(?: for the ([\w ]+))?:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Language:
    """What the page does not say: which tools there must be, what to keep of a build, and how to tell packages from our code.

    ``fetching`` is what the commands begin with that bring packages; ``warm`` commands build these alone, with ``stub`` as the
    program where there must be one. What fails in either says nothing of our page, so that the test is skipped.
    """

    name: str
    title: str
    tools: tuple[str, ...]
    fetching: tuple[str, ...]
    kept: tuple[str, ...]
    warm: tuple[str, ...] = ()
    stub: tuple[str, str] = ("", "")


LANGUAGES = (
    Language("go", "Go", ("go",), ("go mod", "go get"), ("verify",), warm=("go build github.com/MicahParks/keyfunc/v3",)),
    Language(
        "rust",
        "Rust",
        ("cargo", "rustc"),
        (),
        ("target/debug/verify",),
        warm=("cargo build",),
        stub=("src/main.rs", "fn main() {}\n"),
    ),
    Language("java", "Java", ("java", "javac", "mvn"), ("mvn",), ("jars", "*.class"), warm=("javac --release 17 -version",)),
    Language(
        "node",
        "Node",
        ("node", "npm"),
        ("npm",),
        ("node_modules", "*.mjs"),
        warm=("""node --input-type=module -e 'import "jose"'""",),
    ),
)
PROGRAMS = [pytest.param((language, form), id=f"{language.name}-{form}") for language in LANGUAGES for form in FORMS]


@dataclass(frozen=True)
class Section:
    """What the page has for a language: ``files`` by name and form ("": in both), and ``commands``, of which the last runs it."""

    files: dict[tuple[str, str], str]
    commands: list[str]


def section(language: Language) -> Section:
    """Read the part of the page about a language."""
    text = PAGE.read_text().partition(f"\n## {language.title}\n")[2].partition("\n## ")[0]
    files = {(name, form): code for name, form, code in _FILE.findall(text)}
    (console,) = _CONSOLE.findall(text)
    return Section(files, [line.removeprefix("$ ") for line in console.splitlines()])


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Program:
    """A built program: the language's, for keys of a form."""

    language: Language
    form: str
    directory: Path
    environment: dict[str, str]
    command: list[str]

    def run(self, token: str, keys: Path, issuer: str, audience: str) -> Outcome:
        """Give it a token, and what a service is configured with."""
        done = subprocess.run(
            [*self.command, str(keys), issuer, audience],
            cwd=self.directory,
            env=self.environment,
            input=token,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


class Builder:
    """Builds the programs, each language's packages once, in a directory that holds all caches, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ready: dict[str, Section | str] = {}
        self._environment = _environment(directory / "caches")
        self._left = ALL_SECONDS
        self._programs: dict[tuple[str, str], Program] = {}

    def program(self, language: Language, form: str) -> Program:
        """Return a program; skips the test when it cannot be built here, and fails it when it should have been."""
        if language.name not in self._ready:
            self._ready[language.name] = self._prepare(language)
        ready = self._ready[language.name]
        if isinstance(ready, str):
            pytest.skip(ready)
        key = (language.name, form)
        if key not in self._programs:
            self._programs[key] = self._build(language, form, ready)
        return self._programs[key]

    def _prepare(self, language: Language) -> Section | str:
        """Fetch and build the packages; returns why not."""
        asked = os.environ.get("KIWI_TEST_LANGUAGES", "")
        if asked and language.name not in asked.split(","):
            return f"KIWI_TEST_LANGUAGES={asked} does not name {language.name}"
        missing = [tool for tool in language.tools if shutil.which(tool) is None]
        if missing:
            return f"no {' and no '.join(missing)} on this machine"
        found = section(language)
        base = self._directory / language.name
        base.mkdir()
        for (name, form), code in found.files.items():
            if not form:
                _write(base / name, code)
        name, code = language.stub
        if name:
            _write(base / name, code)
        limit = ASKED_SECONDS if asked else min(PREPARE_SECONDS, self._left)
        began = time.monotonic()
        try:
            return self._fetch(language, found, base, limit) or found
        finally:
            self._left -= time.monotonic() - began

    def _fetch(self, language: Language, found: Section, base: Path, limit: float) -> str:
        """Run the commands that bring and build packages, for ``limit`` seconds; return what went wrong."""
        end = time.monotonic() + limit
        for command in [line for line in found.commands if line.startswith(language.fetching)] + list(language.warm):
            try:
                done = self._call(command, base, max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                waits = f"KIWI_TEST_LANGUAGES={language.name} gives them {ASKED_SECONDS:.0f} s"
                return f"{language.title}'s packages took more than {limit:.0f} s here; {waits}"
            if done.returncode:
                return f"{language.title}'s packages cannot be had here: {command}: {_gist(done)}"
        return ""

    def _build(self, language: Language, form: str, found: Section) -> Program:
        base, kept = self._directory / language.name, self._directory / f"{language.name}-{form.replace(' ', '-')}"
        for (name, of_form), code in found.files.items():
            if of_form in ("", form):
                _write(base / name, code)
        for command in found.commands[:-1]:
            if not command.startswith(language.fetching):
                done = self._call(command, base, BUILD_SECONDS)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        for pattern in language.kept:
            for path in base.glob(pattern):
                target = kept / path.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)
        words = shlex.split(found.commands[-1])
        assert words[-len(ARGUMENTS) :] == ARGUMENTS
        return Program(language, form, kept, self._environment, words[: -len(ARGUMENTS)])

    def _call(self, command: str, directory: Path, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run one command, and end all that it started when it takes too long: compilers are its children."""
        words = shlex.split(command)
        with subprocess.Popen(
            words,
            cwd=directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            return subprocess.CompletedProcess(words, process.returncode, out, err)


def _environment(caches: Path) -> dict[str, str]:
    """Return an environment whose tools keep what they fetch and build below ``caches``, and their user's settings as they are."""
    cargo = caches / "cargo"
    cargo.mkdir(parents=True)
    settings = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "config.toml"
    if settings.is_file():
        (cargo / "config.toml").symlink_to(settings)
    return {
        **os.environ,
        "CARGO_HOME": str(cargo),
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_INCREMENTAL": "0",
        "GOCACHE": str(caches / "go-build"),
        "GOMODCACHE": str(caches / "go-mod"),
        "GOFLAGS": "-modcacherw -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} -Dmaven.repo.local={caches / 'maven'}",
        "npm_config_cache": str(caches / "npm"),
        "npm_config_fetch_retries": "1",  # of two, with a minute of waiting, when there is no network
        "npm_config_update_notifier": "false",
        "npm_config_audit": "false",
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _gist(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [f"exit status {done.returncode}"])[0][:200]
