"""The pin: what may be started, what is refused, and that a check with a pin starts nothing."""

from __future__ import annotations

import hashlib
import os
import tomllib
import zipfile
from pathlib import Path

import pytest

from kiwi_id import __version__, compatibility, config
from kiwi_id.compatibility import PinChecker
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Exit

ROOT = Path(__file__).parent.parent


def fake(path: Path, *, says: str = "kanidmd 1.5.0 d9f4dbdd3e", code: int = 0) -> Path:
    """Write a kanidmd that prints ``says`` for 'version' and leaves a mark that it ran."""
    path.write_text(
        f"#!/bin/sh\necho ran >> '{path}.ran'\nenv > '{path}.env'\n[ \"$1\" = version ] && echo '{says}'\nexit {code}\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def instance(tmp_path: Path) -> Config:
    """A config.toml that names a fake kanidmd 1.5.0."""
    fake(tmp_path / "kanidmd")
    return config.parse(f'upstream_bin = "{tmp_path}/kanidmd"\n', tmp_path / "config.toml")


def runs(instance: Config) -> int:
    """Return how often the fake was started."""
    mark = Path(f"{instance.upstream_bin}.ran")
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def refusal(instance: Config, *, allow_untested: bool = False) -> str:
    """Return the words of the refusal; fail when the binary is accepted."""
    with pytest.raises(ConfigError) as caught:
        compatibility.inspect(instance, allow_untested=allow_untested)
    assert caught.value.exit_code == Exit.CONFIG
    return caught.value.diagnostics()


def test_packaged_file_is_true() -> None:
    """The release's file names this wrapper and the tested versions, and claims no checksum that it cannot have."""
    table = tomllib.loads((ROOT / "compatibility.toml").read_text())
    assert table["upstream"] == {"name": "kanidm", "version": "1.5.0", "checksum": compatibility.UNPINNED}
    assert table["wrapper"]["version"] == __version__
    assert compatibility.tested_versions() == ("1.5.0", "1.10.5")
    assert table["upstream"]["version"] in table["tested"]["versions"]


def test_wheel_carries_the_file(tmp_path: Path) -> None:
    """Installed, the file lies inside the package: as the wheel's build does it, and found from there."""
    hatch = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, which builds the wheel, is not installed")
    (built,) = hatch.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        assert wheel.read("kiwi_id/compatibility.toml") == (ROOT / "compatibility.toml").read_bytes()


def test_without_a_pin_the_binary_is_asked(instance: Config) -> None:
    """A tested version starts without a pin, and is marked as not pinned."""
    binary = compatibility.inspect(instance)
    assert (binary.version, binary.pinned, binary.tested) == ("1.5.0", False, True)
    assert binary.sha256 == hashlib.sha256(instance.upstream_bin.read_bytes()).hexdigest()
    assert runs(instance) == 1


def test_the_binary_sees_no_inherited_settings(instance: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """KANIDM_* variables are settings to kanidmd, and secrets of the environment are none of its business."""
    monkeypatch.setenv("KANIDM_DOMAIN", "evil.example")
    monkeypatch.setenv("SOME_TOKEN", "geheim")
    compatibility.inspect(instance)
    environment = Path(f"{instance.upstream_bin}.env").read_text()
    assert "KANIDM" not in environment
    assert "geheim" not in environment


def test_with_a_pin_nothing_is_started(instance: Config) -> None:
    """The pin binds the version to the bytes: hashing is enough."""
    pinned = compatibility.write_pin(instance)
    assert pinned.pinned
    assert compatibility.inspect(instance) == pinned
    assert runs(instance) == 1  # for writing the pin
    assert instance.compatibility_file.stat().st_mode & 0o777 == 0o644
    assert tomllib.loads(instance.compatibility_file.read_text())["upstream"]["version"] == "1.5.0"


def test_a_swapped_binary_is_refused_and_never_run(instance: Config) -> None:
    """Other bytes than the pin's: refused with both checksums and the way out, whatever is permitted besides."""
    old = compatibility.write_pin(instance).sha256
    fake(instance.upstream_bin, says="kanidmd 1.5.0 evil")
    before = runs(instance)
    words = refusal(instance, allow_untested=True)
    assert old in words
    assert hashlib.sha256(instance.upstream_bin.read_bytes()).hexdigest() in words
    assert "kiwi-id pin" in words
    assert runs(instance) == before


def test_untested_version(instance: Config) -> None:
    """Refused with the tested ones named; permitted by the option or by config.toml, and then marked, pinned or not."""
    fake(instance.upstream_bin, says="kanidmd 1.6.0-dev")
    assert "kanidmd 1.6.0-dev, an untested version; allowed: 1.5.0, 1.10.5" in refusal(instance)
    assert not compatibility.inspect(instance, allow_untested=True).tested
    assert not compatibility.write_pin(instance).tested
    assert "untested" in refusal(instance)
    text = f'upstream_bin = "{instance.upstream_bin}"\nallow_untested = true\n'
    binary = compatibility.inspect(config.parse(text, instance.path))
    assert (binary.pinned, binary.tested) == (True, False)


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [
        ("kanidm 1.5.0", 0, "Is this really kanidmd?"),
        ("", 0, "Is this really kanidmd?"),
        ("kanidmd unknown", 0, "kanidmd unknown"),
        ("kanidmd 1.5.0", 3, "ended with 3"),
    ],
)
def test_what_is_not_kanidmd(instance: Config, says: str, code: int, told: str) -> None:
    """Another program, or one that fails, is not taken for kanidmd."""
    fake(instance.upstream_bin, says=says, code=code)
    assert told in refusal(instance, allow_untested=True)


def test_a_binary_that_hangs_is_given_up(instance: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr(compatibility, "_VERSION_TIMEOUT", 0.2)
    instance.upstream_bin.write_text("#!/bin/sh\nexec sleep 60\n")
    assert "no answer to 'kanidmd version' within 0.2s" in refusal(instance)


def test_missing_or_unusable_files(instance: Config) -> None:
    """Missing, a directory, not executable, not a program: each in words with its fix."""
    instance.upstream_bin.write_bytes(b"\x7fELF nonsense")
    assert "does not run" in refusal(instance)
    instance.upstream_bin.chmod(0o644)
    assert "chmod 0755" in refusal(instance)
    instance.upstream_bin.unlink()
    assert "no such file" in refusal(instance)
    instance.upstream_bin.mkdir()
    assert "not a regular file" in refusal(instance)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[upstream\n", "not TOML"),
        ("", "upstream.checksum: found nothing"),
        ('[upstream]\nname = "kanidm"\nversion = "1.5.0"\nchecksum = "sha256:abc"\n', ':4: upstream.checksum: found "sha256:abc"'),
        (f'[upstream]\nname = "dex"\nversion = "1.5.0"\nchecksum = "sha256:{"0" * 64}"\n', ':2: upstream.name: found "dex"'),
        (f'[upstream]\nname = "kanidm"\nversion = 1\nchecksum = "sha256:{"0" * 64}"\n', ":3: upstream.version: found 1"),
    ],
)
def test_a_broken_pin_is_not_taken_for_none(instance: Config, text: str, told: str) -> None:
    """Whoever can damage the pin must not thereby be able to swap the binary."""
    instance.compatibility_file.write_text(text)
    assert told in refusal(instance, allow_untested=True)


def test_a_copy_of_the_packaged_file_is_no_pin(instance: Config) -> None:
    """Someone who copied it beside config.toml has not pinned anything, and is told by pinned=False."""
    instance.compatibility_file.write_bytes((ROOT / "compatibility.toml").read_bytes())
    assert not compatibility.inspect(instance).pinned


def test_checker_reads_again_only_what_changed(instance: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each restart: no process, no hashing of 80 MB while the file is the same; a touch makes it hash again."""
    compatibility.write_pin(instance)
    checker = PinChecker(instance)
    hashed: list[Path] = []
    original = compatibility._hash

    def counting(path: Path) -> tuple[compatibility.Signature, str]:
        hashed.append(path)
        return original(path)

    monkeypatch.setattr(compatibility, "_hash", counting)
    assert checker.verify() == checker.binary
    assert hashed == []
    os.utime(instance.upstream_bin, ns=(0, 0))
    assert checker.verify().pinned
    assert len(hashed) == 1
    checker.verify()
    assert len(hashed) == 1
    assert runs(instance) == 1


def test_checker_follows_an_upgrade_with_a_new_pin(instance: Config) -> None:
    """A swap under a running supervisor is refused until 'kiwi-id pin' accepts it, even with mtime and size put back."""
    compatibility.write_pin(instance)
    checker = PinChecker(instance)
    status = instance.upstream_bin.stat()
    fake(instance.upstream_bin, says="kanidmd 1.10.5 d9f4dbdd3")
    os.truncate(instance.upstream_bin, status.st_size)
    os.utime(instance.upstream_bin, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ConfigError, match="If you replaced kanidmd on purpose"):
        checker.verify()
    with pytest.raises(ConfigError):  # and again: a refusal is not forgotten
        checker.verify()
    fake(instance.upstream_bin, says="kanidmd 1.10.5 new")
    compatibility.write_pin(instance)
    assert checker.verify().version == "1.10.5"


def test_checker_without_a_pin_holds_on_to_the_first_binary(instance: Config) -> None:
    """The version of another could only be learnt by running it, which a running supervisor must not."""
    checker = PinChecker(instance)
    fake(instance.upstream_bin, says="kanidmd 1.5.0 other")
    before = runs(instance)
    with pytest.raises(ConfigError, match="another binary"):
        checker.verify()
    assert runs(instance) == before
    fake(instance.upstream_bin)
    assert checker.verify() == checker.binary


@pytest.mark.kanidm
def test_real_kanidmd(tmp_path: Path, kanidmd: Path) -> None:
    """A real kanidmd tells its version in the way that is parsed here, and can be pinned."""
    instance = config.parse(f'upstream_bin = "{kanidmd}"\nallow_untested = true\n', tmp_path / "config.toml")
    binary = compatibility.write_pin(instance)
    assert compatibility.inspect(instance) == binary
    assert binary.version.split(".")[0] == "1"
