"""``kiwi-id dev``: a temporary instance with demo users, over a real kanidmd where there is one, else over the stand-in.

The supervisor runs as a process of its own, the very ``kiwi-id run`` of production: it owns the signals, children and exit code of
its process, and sharing them with this command would make dev mode another program than the one that is deployed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import trio

from kiwi_id import demo
from kiwi_id.errors import ChildUnavailable, Exit, KiwiError
from kiwi_id.instance import trial
from kiwi_id.instance.trial import Trial
from kiwi_id.kanidm.pin import client_context

START_SECONDS = 90.0  # Kanidm needs 0.3 s; a slow disk, and a kept database that must be migrated, need more
STOP_SECONDS = 15.0  # beyond the instance's own shutdown_timeout, after which Kiwi ID has given up by itself
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--port", type=_port, metavar="N", help=f"of https://localhost:N (default {trial.DEFAULT_PORT}, else a free one)"
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="keep the instance here, and use it again the next time")
    parser.add_argument(
        "--upstream-bin", type=Path, metavar="PATH", help="kanidmd (default: $KIWI_TEST_KANIDMD, then /opt/upstream/bin/kanidmd)"
    )
    parser.add_argument("--stand-in", action="store_true", help="use the stand-in even where there is a kanidmd")
    parser.add_argument(
        "--redirect-uri", action="append", default=[], metavar="URI", help="also allow this to the client kiwi-demo (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print what is to be printed as one line of JSON")
    parser.add_argument("--verbose", action="store_true", help="show the log here")


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C, SIGTERM or SIGHUP; leave nothing behind but what ``--dir`` keeps. Returns the exit code."""
    return trio.run(_run, args)


async def _run(args: argparse.Namespace) -> int:
    # Signals are held from the first file on, so that a Ctrl-C at any moment still removes the directory.
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals, ExitStack() as stack:
        if args.dir is None:
            root = Path(tempfile.mkdtemp(prefix="kiwi-dev-"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        else:
            root = args.dir.absolute()
        instance = trial.prepare(root, port=args.port, upstream_bin=args.upstream_bin, stand_in=args.stand_in)
        return await _serve(instance, args, signals)


async def _serve(instance: Trial, args: argparse.Namespace, signals: AsyncIterator[int]) -> int:
    """Run the supervisor until it ends or a signal comes; return the exit code. No process is left, whatever happens."""
    process = _spawn(instance, show=args.verbose)
    stopped = False
    failure: KiwiError | None = None

    async def stop_on_signal() -> None:
        nonlocal stopped
        async for _number in signals:
            # The first time in order; who presses Ctrl-C again does not want to wait.
            process.send_signal(signal.SIGKILL if stopped else signal.SIGTERM)
            stopped = True

    async def announce() -> None:
        nonlocal failure
        try:
            await _wait_ready(instance)
            upstream = f"https://{instance.config.upstream_addr}"
            made = await demo.provision(instance.server, upstream, redirect_uris=args.redirect_uri)
            facts = await _facts(instance, made)
            text = json.dumps(facts) if args.json else _text(instance, made, facts, kept=args.dir is not None)
            print(text, flush=True)
        except KiwiError as error:
            failure = error
            process.terminate()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal)
            nursery.start_soon(announce)
            await _ended(process)
            nursery.cancel_scope.cancel()
    finally:
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(instance.config.shutdown_timeout + STOP_SECONDS, shield=True):
                await _ended(process)
            process.kill()
        process.wait()
    if stopped:
        return Exit.OK
    raise failure or ChildUnavailable(f"Kiwi ID ended by itself, exit status {process.returncode}.{_tail(instance)}")


def _output(instance: Trial) -> Path:
    """Where the supervisor's own output goes, for the case that it fails before it can log."""
    return instance.root / "dev-output.log"


def _spawn(instance: Trial, *, show: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(instance.config.path)]
    # Where this very package is, whether it is installed, in a checkout, or on the path of a launcher.
    package_root = str(Path(demo.__file__).parent.parent)
    search_path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with _output(instance).open("wb") as output:
        # Its own process group: a Ctrl-C in the terminal is ours to hand on. PDEATHSIG: if we are killed it must not stay.
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": search_path},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if show else output,
            stderr=sys.stderr if show else output,
            process_group=0,
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509  # no threads yet, and two system calls only
        )


def _die_with_parent(parent: int) -> Callable[[], None]:
    def set_up() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # we died between fork and prctl
            os._exit(1)

    return set_up


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until ``process`` has ended, without a thread that could outlive a cancellation."""
    descriptor = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    process.poll()


async def _wait_ready(instance: Trial) -> None:
    """Wait for /readyz. Raises ChildUnavailable after START_SECONDS; a supervisor that ends is seen by ``_serve``."""
    with trio.move_on_after(START_SECONDS):
        async with httpx.AsyncClient(verify=client_context(instance.certificate), timeout=5, trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(f"{instance.front}/readyz")).status_code == 200:
                        return
                await trio.sleep(0.05)
    raise ChildUnavailable(f"Kiwi ID was not ready within {START_SECONDS:g} s.{_tail(instance)}")


async def _facts(instance: Trial, made: demo.Demo) -> dict[str, Any]:
    """Everything that a person or a test needs, JSON-ready. ``discovery`` is the common issuer's where there is one."""
    origin = instance.server.origin
    discovery = made.clients[0].discovery
    async with httpx.AsyncClient(verify=client_context(instance.certificate), timeout=10, trust_env=False) as client:
        with suppress(httpx.TransportError):
            if (await client.get(f"{instance.front}/.well-known/openid-configuration")).status_code == 200:
                discovery = f"{origin}/.well-known/openid-configuration"
    return {
        "url": f"{origin}/ui/login",
        "origin": origin,
        "discovery": discovery,
        "stand_in": instance.stand_in,
        "kanidmd": str(instance.config.upstream_bin),
        "directory": str(instance.root),
        "certificate": str(instance.certificate),
        "log": str(instance.config.log_file or _output(instance)),
        **made.as_dict(),
    }


def _text(instance: Trial, made: demo.Demo, facts: dict[str, Any], *, kept: bool) -> str:
    """The same facts for a person."""
    what = f"Over kanidmd: {instance.config.upstream_bin}"
    if instance.stand_in:
        what = (
            "This is NOT Kanidm but a stand-in with like pages and endpoints, for development on this machine only.\n"
            "  For the real one name a kanidmd: kiwi-id dev --upstream-bin PATH"
        )
    return f"""\
Kiwi ID is ready. Open  {facts["url"]}

  {what}

{made.text()}

  discovery    {facts["discovery"]}
  certificate  {facts["certificate"]}
               (browsers warn once; programs take it as SSL_CERT_FILE, NODE_EXTRA_CA_CERTS or curl --cacert)
  log          {facts["log"]}

Stop with Ctrl-C. {instance.root} is {"kept" if kept else "removed then"}."""


def _tail(instance: Trial) -> str:
    """The last lines that the supervisor printed, for a failure; those in words, if there are any, rather than the log's."""
    lines = _output(instance).read_text(errors="replace").splitlines()
    plain = [line for line in lines if not line.startswith("{")] or lines
    return "".join(f"\n  {line}" for line in plain[-10:])


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a port number from 1 to 65535")
    return int(text)
