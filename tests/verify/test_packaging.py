"""The package as services install it: cryptography and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

from kiwi_id import cli
from kiwi_id.errors import Exit

ROOT = Path(__file__).parents[2]
PATIENCE = 60
# An import of one of these fails, as it does where only the core is installed.
WITHOUT_SERVER = f"import sys; sys.modules.update(dict.fromkeys({sorted(cli._SERVER_MODULES)!r}))"


def python(program: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cwd, env=environment)


def test_checking_loads_nothing_of_the_server() -> None:
    """Importing kiwi_id.verify loads neither Trio nor Quart, Hypercorn, httpx, h11 or PyJWT, nor an HTTP client."""
    heavy = sorted(cli._SERVER_MODULES | {"ssl", "http.client", "urllib.request", "asyncio"})
    done = python(f"import sys, kiwi_id.verify; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_package_itself_is_light() -> None:
    """Importing kiwi_id loads no other module of ours and no package at all."""
    program = "import sys; before = set(sys.modules); import kiwi_id; print(sorted(set(sys.modules) - before))"
    assert python(program).stdout == "['kiwi_id']\n"


def test_tokens_are_checked_without_the_server_installed() -> None:
    """With the core's packages alone a token of a P-256 key is made with cryptography, and checked."""
    program = (
        f"{WITHOUT_SERVER}\n"
        "import json, time\n"
        "from cryptography.hazmat.primitives.asymmetric import ed25519\n"
        "from kiwi_id.verify import Verifier\n"
        "from kiwi_id.issuer.encoding import base64url\n"
        "key = ed25519.Ed25519PrivateKey.generate()\n"
        "claims = {'iss': 'i', 'sub': 's', 'aud': 'a', 'iat': int(time.time()), 'exp': int(time.time()) + 900}\n"
        "claims |= {'jti': 'j', 'client_id': 'a'}\n"
        "signed = '.'.join(base64url(json.dumps(part).encode()) for part in ({'alg': 'EdDSA', 'typ': 'at+jwt'}, claims))\n"
        "token = signed + '.' + base64url(key.sign(signed.encode()))\n"
        "print(Verifier(key.public_key(), issuer='i', audience='a').verify(token).subject)\n"
    )
    done = python(program)
    assert (done.stdout, done.stderr) == ("s\n", "")


@pytest.mark.parametrize("command", ["dev", "check", "keys", "status", "reload"])
def test_a_server_command_says_what_to_install(command: str, tmp_path: Path) -> None:
    """Without the server's packages a command that needs them ends with 78 and the one line to type, not with a traceback."""
    program = f"{WITHOUT_SERVER}\nfrom kiwi_id.cli import main; sys.exit(main(sys.argv[1:]))"
    config = tmp_path / "config.toml"
    arguments = {"dev": [], "keys": ["list", "--config", str(config)]}.get(command, ["--config", str(config)])
    done = python(program, command, *arguments)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"kiwi-id {command}: needs the server part of Kiwi ID, which is not installed here (no module '")
    assert done.stderr.endswith("'). Install it: pip install 'kiwi-id[server]'\n")
    assert "Traceback" not in done.stderr


def test_another_missing_module_is_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A module of ours that cannot be imported is not taken for a missing installation."""
    monkeypatch.setitem(sys.modules, "kiwi_id.cli.pin", None)
    assert cli.main(["pin"]) == Exit.SOFTWARE
    assert "ModuleNotFoundError" in capsys.readouterr().err


def server_requirements() -> list[str]:
    """Return the extra ``server`` of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = project["optional-dependencies"]["server"]
    return found


def test_the_core_needs_cryptography_only() -> None:
    """pyproject.toml has one dependency; what the server needs is in its extra, and the command line knows all of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [name.partition(">")[0] for name in project["dependencies"]] == ["cryptography"]
    modules = {"PyJWT": "jwt", "quart-trio": "quart_trio"}
    extra = {name.partition(">")[0] for name in server_requirements()}
    assert {modules.get(name, name) for name in extra} | {"quart"} == cli._SERVER_MODULES


def test_the_wheel_says_the_same(tmp_path: Path) -> None:
    """The wheel's metadata has cryptography without condition, and everything else for the extra only."""
    hatch = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not installed")
    (wheel,) = hatch.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = BytesParser().parsebytes(archive.read(name))
    requirements = metadata.get_all("Requires-Dist", [])
    assert [line for line in requirements if "extra ==" not in line] == ["cryptography>=44"]
    assert len([line for line in requirements if "extra == 'server'" in line]) == len(server_requirements())
    assert metadata.get_all("Provides-Extra") == ["server"]
