"""``kiwi-id init`` as a process: a tree that passes the check, kept on the second run, with nothing lost by mistakes."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kiwi_id import __version__, config
from kiwi_id.errors import ConfigError, Exit
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml

ROOT = Path(__file__).parent.parent.parent
Done = subprocess.CompletedProcess[str]
FILES = {
    "etc/kiwi/config.toml": 0o644,
    "etc/kiwi/jwt-private.pem": 0o600,
    "etc/kiwi/jwt-public.pem": 0o644,
    "etc/kiwi/compatibility.toml": 0o644,
    "opt/upstream/etc/server.toml": 0o644,
    "opt/upstream/etc/loopback-chain.pem": 0o644,
    "opt/upstream/etc/loopback-key.pem": 0o600,
    "opt/kiwi/version": 0o644,
    "opt/kiwi/bin/kiwi-id": 0o755,
}
DIRECTORIES = {"var/lib/upstream": 0o700, "var/log/kiwi": 0o750, "run/kiwi": 0o750, "opt/upstream/bin": 0o755}


def init(root: Path, *options: str, umask: int = 0o022) -> Done:
    """Run the real command; es256 unless told otherwise, since an RSA key takes time."""
    command = [sys.executable, "-m", "kiwi_id", "init", str(root), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, umask=umask)


def good(done: Done) -> str:
    """Return what was printed; fail with it when the command failed."""
    assert done.returncode == Exit.OK, done.stderr
    return done.stdout


def modes(root: Path, names: dict[str, int]) -> dict[str, int]:
    """Return the modes of files under ``root``."""
    return {name: (root / name).stat().st_mode & 0o777 for name in names}


def contents(root: Path) -> dict[Path, bytes]:
    """Return every file under ``root`` with its bytes."""
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A fake kanidmd that tells a tested version."""
    path = tmp_path / "kanidmd"
    path.write_text("#!/bin/sh\necho 'kanidmd 1.5.0 abc'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def instance(tmp_path: Path, fake: Path) -> Path:
    """An instance made in this process, as ``kiwi-id dev`` makes one; returns its root."""
    options = layout.Options(domain="id.example.com", upstream_bin=fake, key_type="es256")
    layout.create(tmp_path / "i", options)
    return tmp_path / "i"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_writes_a_whole_instance(tmp_path: Path, fake: Path, umask: int) -> None:
    """Every file of the layout with its mode, whatever the umask, each listed; the next step is told last; RSA by default."""
    root = tmp_path / "i"
    output = good(init(root, "--upstream-bin", str(fake), umask=umask))
    assert modes(root, FILES | DIRECTORIES) == FILES | DIRECTORIES
    for name in FILES:
        assert f"written   {root / name}\n" in output
    assert f"written   {root / 'var/lib/upstream'}/\n" in output
    assert output.splitlines()[-1].startswith(f"Next: {root}/opt/kiwi/bin/kiwi-id check --config {root}/etc/kiwi/config.toml")
    assert (root / "opt/kiwi/version").read_text() == f"{__version__}\n"
    made = config.load(root / "etc/kiwi/config.toml")
    paths = [made.upstream_config, made.jwt_private_key, made.jwt_public_key, made.log_file, made.runtime_dir, made.tls_key]
    assert all(path is not None and path.is_relative_to(root) for path in paths)
    assert (made.bootstrap, made.apply_on_start) == (True, True)
    assert made.identities_file == root / "etc/kiwi/identities.toml"


def test_the_launcher_runs_and_what_it_made_passes_the_check(instance: Path, tmp_path: Path) -> None:
    """The step that is told works from any directory, and a trio.py lying there is not run."""
    (tmp_path / "trio.py").write_text("raise SystemExit(99)")
    launcher, file = instance / "opt/kiwi/bin/kiwi-id", instance / "etc/kiwi/config.toml"
    command = [str(launcher), "check", "--json", "--config", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    findings = json.loads(done.stdout)["findings"]
    assert [finding for finding in findings if finding["status"] == "wrong" and finding["area"] != "ports"] == []


def test_a_second_run_changes_nothing(instance: Path) -> None:
    """Everything is kept and listed as kept; not a byte differs."""
    before = contents(instance)
    output = good(init(instance))
    assert contents(instance) == before
    assert {line.split()[0] for line in output.splitlines() if line.startswith(("written", "kept", "replaced"))} == {"kept"}
    assert output.count("kept ") == len(FILES)


def test_a_lost_file_is_made_again(instance: Path) -> None:
    """A second run heals: the public half, the launcher and the pin come back, the rest is kept."""
    lost = ["etc/kiwi/jwt-public.pem", "opt/kiwi/bin/kiwi-id", "etc/kiwi/compatibility.toml"]
    public = (instance / lost[0]).read_bytes()
    for name in lost:
        (instance / name).unlink()
    output = good(init(instance))
    for name in FILES:
        assert f"{'written' if name in lost else 'kept':<8}  {instance / name}\n" in output
    assert (instance / lost[0]).read_bytes() == public


def test_an_option_that_a_kept_file_overrules_is_told(instance: Path) -> None:
    """Nobody should believe that an option took effect when the file was kept."""
    same = ["--origin", "https://ID.example.com:443/"]  # another spelling of what is there
    output = good(init(instance, "--domain", "other.example", "--key-type", "rs256", *same))
    assert "--origin" not in output
    assert "--domain other.example had no effect: the kept files say id.example.com" in output
    assert "--key-type had no effect" in output


def test_force_replaces_and_keeps_the_old(instance: Path, fake: Path) -> None:
    """Configuration is written anew, the old one beside it; the signing key stays, since tokens hang on it."""
    old = contents(instance)
    output = good(init(instance, "--domain", "new.example", "--upstream-bin", str(fake), "--force"))
    for name in FILES:
        action = "kept" if "jwt-" in name else "replaced"
        assert f"{action:<8}  {instance / name}\n" in output
    server = instance / "opt/upstream/etc/server.toml"
    assert server_toml.load(server).origin == "https://new.example"
    assert server.with_name("server.toml.bak").read_bytes() == old[server]
    key = instance / "etc/kiwi/jwt-private.pem"
    assert key.read_bytes() == old[key]


def test_force_with_key_type_makes_new_keys(instance: Path) -> None:
    """A new key has to be asked for by name; the old one stays, as private as it was."""
    private = instance / "etc/kiwi/jwt-private.pem"
    old = private.read_bytes()
    assert f"replaced  {private}\n" in good(init(instance, "--force", "--key-type", "eddsa", "--domain", "id.example.com"))
    backup = private.with_name("jwt-private.pem.bak")
    assert backup.read_bytes() == old != private.read_bytes()
    assert backup.stat().st_mode & 0o777 == 0o600


def test_without_kanidmd_the_pin_is_left_for_later(tmp_path: Path) -> None:
    """Everything else is written, and it says how to pin; then pinning works."""
    root, binary = tmp_path / "i", tmp_path / "later"
    output = good(init(root, "--key-type", "es256", "--upstream-bin", str(binary)))
    assert not (root / "etc/kiwi/compatibility.toml").exists()
    assert f"no kanidmd at {binary} yet" in output
    assert f"kiwi-id pin --config {root}/etc/kiwi/config.toml" in output


def test_json(tmp_path: Path, fake: Path) -> None:
    """For scripts: the same list, and nothing else on stdout."""
    root = tmp_path / "i"
    answer: dict[str, Any] = json.loads(good(init(root, "--json", "--key-type", "es256", "--upstream-bin", str(fake))))
    assert answer["ok"] is True
    assert answer["config"] == str(root / "etc/kiwi/config.toml")
    assert {"action": "written", "path": str(root / "opt/kiwi/version")} in answer["files"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--domain", "Upper.Example"], Exit.CONFIG, "--domain: found"),
        (["--domain", "a.example", "--origin", "https://b.example"], Exit.CONFIG, "--origin: found"),
        (["--listen", "nonsense"], Exit.USAGE, "Give a port number"),
        (["--upstream-addr", "http://x:1"], Exit.USAGE, "--upstream-addr"),
        (["--listen", "127.0.0.1:8444"], Exit.CONFIG, "the same as upstream_addr"),
    ],
)
def test_wrong_options_write_nothing(tmp_path: Path, options: list[str], code: Exit, words: str) -> None:
    """A mistake is told in the option's own name and leaves no trace."""
    done = init(tmp_path / "i", *options)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "i").exists()


def test_the_machine_itself_needs_a_domain(tmp_path: Path) -> None:
    """Accounts and passkeys are bound to the domain: for / there is no default. Only planned here, so nothing is touched."""
    if Path("/opt/upstream/etc/server.toml").exists():
        pytest.skip("this machine has an instance at /")
    with pytest.raises(ConfigError, match="--domain"):
        layout._Plan(Path("/"), layout.Options(upstream_bin=tmp_path / "none"))
    plan = layout._Plan(Path("/"), layout.Options(domain="id.example.com", upstream_bin=tmp_path / "none"))
    assert str(plan.config.listen_addr) == "10.10.20.10:8443"
    assert plan.config.tls_cert is None
    assert plan.config.runtime_dir == Path("/run/kiwi")
    assert plan.server.origin == "https://id.example.com"
    assert str(plan.server.bind_addresses[0]) == "127.0.0.1:8443"
    assert not Path("/opt/upstream/etc/server.toml").exists()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("etc/kiwi/jwt-private.pem", "its public half exists"),
        ("opt/upstream/etc/loopback-key.pem", "loopback-chain.pem exists"),
        ("opt/upstream/etc/loopback-chain.pem", "loopback-key.pem exists"),
    ],
)
def test_a_lost_half_of_a_pair_is_not_papered_over(instance: Path, gone: str, words: str) -> None:
    """A new private key would silently make the public one wrong: told instead, and nothing is touched."""
    (instance / gone).unlink()
    before = contents(instance)
    with pytest.raises(ConfigError, match=words):
        layout.create(instance, layout.Options())
    assert contents(instance) == before


def test_a_path_too_long_for_sockets_is_told_before_writing(tmp_path: Path) -> None:
    """Unix sockets end at 107 bytes; better said now than by a failing start."""
    root = tmp_path / ("x" * 100)
    with pytest.raises(ConfigError, match="too long for a socket"):
        layout.create(root, layout.Options())
    assert not root.exists()


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    """In words, with exit code 78."""
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere (root with CAP_DAC_OVERRIDE)")
    done = init(tmp_path / "i", "--key-type", "es256")
    tmp_path.chmod(0o755)
    assert done.returncode == Exit.CONFIG
    assert "Permission denied" in done.stderr


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    """A file where a directory must be: in words, without a traceback."""
    (tmp_path / "i").write_text("")
    done = init(tmp_path / "i", "--key-type", "es256")
    assert done.returncode == Exit.CONFIG
    assert "Traceback" not in done.stderr


@pytest.mark.kanidm
def test_a_real_kanidmd_serves_on_what_was_written(tmp_path: Path, kanidmd: Path) -> None:
    """server.toml and certificate work: started, verified over TLS, stopped with exit code 0."""
    root, port = tmp_path / "i", free_port()
    good(init(root, "--upstream-bin", str(kanidmd), "--upstream-addr", f"127.0.0.1:{port}", "--key-type", "es256"))
    server = root / "opt/upstream/etc/server.toml"
    chain = str(root / "opt/upstream/etc/loopback-chain.pem")
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen([kanidmd, "server", "-c", server], stdout=log, stderr=log, env={"PATH": "/usr/bin:/bin"})
    try:
        context = ssl.create_default_context(cafile=chain)
        deadline, answer = time.monotonic() + 30, b""
        while time.monotonic() < deadline and not answer:
            assert child.poll() is None, (tmp_path / "log").read_text()
            with (
                contextlib.suppress(urllib.error.URLError),
                urllib.request.urlopen(f"https://127.0.0.1:{port}/status", context=context, timeout=5) as response,
            ):
                answer = response.read()
            time.sleep(0.05)
        assert answer == b"true"
    finally:
        child.terminate()
        assert child.wait(timeout=30) == 0
