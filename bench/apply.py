"""A state file of 1,000 persons and 200 groups: the time of the first apply on an empty Kanidm, and of a second without changes.

    python -m bench.apply [--kanidmd PATH] [--persons 1000] [--groups 200] [--clients 20] [--json FILE]

``kiwi-id apply`` as a person types it, a process each, with Kiwi ID's own account; then a third after a change of one in ten.
Needs a real kanidmd: the stand-in's times say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.instance import KIWI_ID, ROOT, find_kanidmd, make
from bench.processes import wait_port

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAeGXQdUwUvBNlEZKMYpDWDyKHNvlBmVHIWdCHhiuOkk"


def state_file(persons: int, groups: int, clients: int, *, title: str = "Person") -> str:
    """Return a state file; every tenth person is called by ``title``, has a key and POSIX attributes. Always the same."""
    chance = random.Random(7)  # noqa: S311 - any numbers will do
    names = [f"p{number:05}" for number in range(persons)]
    lines = []
    for number, name in enumerate(names):
        tenth = number % 10 == 0
        lines += [
            f"[persons.{name}]",
            f'display_name = "{title if tenth else "Person"} {number}"',
            f'mail = ["{name}@example.com"]',
        ]
        lines += [f'ssh_keys = {{ laptop = "{KEY}" }}', "posix = {}"] if tenth else []
    for number in range(groups):
        members = chance.sample(names, min(20, len(names)))
        lines += [f"[groups.g{number:04}]", f"members = {json.dumps(members)}"]
        lines += ['policy = { credential_minimum = "mfa" }'] if number % 20 == 0 else []
    for number in range(clients):
        lines += [f"[clients.c{number:03}]", f'landing = "https://c{number}.example.com/"']
        lines += [f'redirect_uris = ["https://c{number}.example.com/cb"]', f'scopes = {{ g{number % groups:04} = ["openid"] }}']
    return "\n".join(lines) + "\n"


def timed(config: Path, *arguments: str) -> tuple[float, Any]:
    """Run one ``kiwi-id apply`` and return its seconds and its answer."""
    began = time.monotonic()
    done = subprocess.run(
        [*KIWI_ID, "apply", "--config", str(config), "--json", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"kiwi-id apply ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout)


def measure(directory: Path, kanidmd: Path, counts: tuple[int, int, int]) -> dict[str, float]:
    """Make an instance, apply three times, end it; return the seconds of each apply."""
    instance = make(directory, kanidmd)
    config = instance.places.config
    with (directory / "kanidmd.log").open("wb") as log:
        command = [str(kanidmd), "server", "-c", str(instance.places.upstream_config)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_port(instance.upstream)
        subprocess.run([*KIWI_ID, "bootstrap", "--config", str(config)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        file = config.with_name("identities.toml")
        file.write_text(state_file(*counts))
        first, made = timed(config)
        second, same = timed(config)
        file.write_text(state_file(*counts, title="Doctor"))
        third, changed = timed(config)
    finally:
        process.kill()
        process.wait()
    assert (made["done"], same["done"]) == (sum(counts), 0)
    return {"first": first, "again": second, "changed": third, "changes": changed["done"]}


def main() -> None:
    """Print the three times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kanidmd")
    parser.add_argument("--persons", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiwi-bench-") as directory:
        kanidmd = find_kanidmd(args.kanidmd, Path(directory))
        if kanidmd.is_relative_to(directory):
            sys.exit("There is no kanidmd here: name one by --kanidmd or KIWI_TEST_KANIDMD.")
        version = subprocess.check_output([kanidmd, "version"], text=True, stderr=subprocess.DEVNULL).split()[1]
        times = measure(Path(directory), kanidmd, (args.persons, args.groups, args.clients))
    print(f"kanidmd {version}, {os.cpu_count()} cores: {args.persons} persons, {args.groups} groups, {args.clients} clients")
    print(f"  first apply, empty instance   {times['first']:6.2f} s")
    print(f"  second apply, no changes      {times['again']:6.2f} s")
    print(f"  apply of {times['changes']:4.0f} changes         {times['changed']:6.2f} s")
    if args.json:
        args.json.write_text(json.dumps({"kanidmd": version, **times}, indent=2) + "\n")


if __name__ == "__main__":
    main()
