"""Ports for instances: what is chosen here stays free until the instance binds it."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from kiwi_id.instance.ports import BLOCK, LOWEST, blocks, claim, free_port

CHOOSE = f"""
from kiwi_id.instance.ports import free_port
print(*(free_port() for _ in range({2 * BLOCK})), flush=True)
input()
"""


def test_no_port_is_given_twice() -> None:
    """Processes that choose at the same time, and one of them again and again, all get different ports."""
    processes = [
        subprocess.Popen([sys.executable, "-c", CHOOSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    given = [free_port() for _ in range(2 * BLOCK)]
    for process in processes:
        assert process.stdout is not None
        given += map(int, process.stdout.readline().split())
    for process in processes:
        process.communicate("\n")
        assert process.returncode == 0
    assert len(given) == len(set(given)) == 8 * BLOCK


def test_the_kernel_gives_it_to_nobody_else() -> None:
    """It is none of those that whoever binds port 0 gets, and every outgoing connection."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if last - first > 60000:
        pytest.skip("here the kernel takes from all ports")
    assert not first <= free_port() <= last


def test_a_port_in_use_is_not_given() -> None:
    """The next port is left out when somebody listens on it."""
    with socket.socket() as taken:
        while True:
            with suppress(OSError):  # it may be the first of another process's block
                taken.bind(("127.0.0.1", free_port() + 1))
                break
        assert taken.getsockname()[1] not in [free_port() for _ in range(2 * BLOCK)]


def test_a_port_in_particular() -> None:
    """One process has it for as long as it runs, and others are told so."""
    port = free_port()
    ask = [sys.executable, "-c", f"from kiwi_id.instance.ports import claim; print(claim({port})); input()"]
    with subprocess.Popen(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert not claim(port)
        process.communicate("\n")
    assert claim(port)


def test_ranges_of_the_kernel() -> None:
    """Blocks lie below and above its range, wherever that is, none overlaps another, and all are ports."""
    for first, last in ((32768, 60999), (15000, 65000), (1024, 40000), (49152, 65535)):
        found = [port for block in blocks(first, last) for port in block]
        assert len(found) == len(set(found)) > 5 * BLOCK
        assert min(found) >= LOWEST
        assert max(found) < 65536
        assert not set(found) & set(range(first, last + 1))
    everything = [port for block in blocks(1024, 65535) for port in block]
    assert everything[0] == LOWEST
    assert len(everything) > 50000
