"""The faults, each a few hundred milliseconds of bad luck; after each of them a kanidmd must serve again."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from tests.faults.tally import Tally
from tests.faults.world import World

# Kiwi ID waits before it restarts what has had two short lives in a row (child.LONG_LIFE): no kill before this, in seconds.
_LONG_LIFE = 1.1
_SLOW_CLIENTS = 24


class Faults:
    """Draws faults from a seeded generator and injects them, one after the other."""

    def __init__(self, world: World, tally: Tally, seed: int, nursery: trio.Nursery) -> None:
        self._world, self._tally, self._nursery = world, tally, nursery
        self._random = random.Random(seed)  # noqa: S311 - repeatable is what it must be
        self._config = world.places.config.read_text()
        self._since, self._short = trio.current_time(), False
        self.counts: dict[str, int] = {}
        self._drawn: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "kill -9": (6, self._kill),
            "restart by TERM": (1, self._terminate),
            "planned restart": (1, self._planned),
            "planned restart beside a slow upload": (1, self._beside_a_slow_upload),
            "STOP and CONT": (5, self._freeze),
            "HUP storm": (2, self._storm),
            "bad config": (3, self._bad_config),
            "slow clients": (4, self._slow_clients),
            "full log disk": (3, self._full_disk),
        }

    async def one(self) -> None:
        """Inject one fault and wait until kanidmd serves again. Raises AssertionError when it does not."""
        names = list(self._drawn)
        name = self._random.choices(names, [self._drawn[each][0] for each in names])[0]
        self.counts[name] = self.counts.get(name, 0) + 1
        await self._drawn[name][1]()
        await self._world.ready(None)
        # What the load does meanwhile differs from run to run; when the next fault comes, relative to this, does not.
        await trio.sleep(self._random.uniform(0.0, 0.1))

    async def _end_life(self, number: int) -> None:
        lived = trio.current_time() - self._since
        if self._short and lived < _LONG_LIFE:
            await trio.sleep(_LONG_LIFE - lived)
            lived = _LONG_LIFE
        self._short = lived < _LONG_LIFE
        old = await self._world.ready(None)
        self._tally.lives += 1
        self._tally.ending = True
        with trio.CancelScope() as told:
            self._nursery.start_soon(self._say_again, old, number, told)
            await self._world.ready(old)
        told.cancel()
        self._tally.lives += 1
        self._tally.ending = False
        self._since = trio.current_time()

    async def _say_again(self, pid: int, number: int, until: trio.CancelScope) -> None:
        # Within five seconds of a HUP Kanidm 1.5.0 loses a TERM: then as an impatient operator does.
        while not until.cancel_called and _is_there(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            await trio.sleep(0.5)
            number = signal.SIGKILL

    async def _kill(self) -> None:
        await self._end_life(signal.SIGKILL)

    async def _terminate(self) -> None:
        await self._end_life(signal.SIGTERM)

    async def _planned(self) -> None:
        """Restart kanidmd in order: nothing at all may come of it, so the tally is not told that a life ends."""
        outcome = await self._world.ask("restart_upstream")
        if not outcome["ok"]:
            raise AssertionError(f"kanidmd could not be restarted in order: {outcome}")
        self._since, self._short = trio.current_time(), False

    async def _beside_a_slow_upload(self) -> None:
        """Restart it in order while a client sends a body without end: that one is cut, and nobody else notices."""
        async with await trio.open_tcp_stream("127.0.0.1", self._world.port) as stream, trio.open_nursery() as nursery:
            begun = trio.Event()
            nursery.start_soon(self._upload, stream, begun)
            await begun.wait()
            await self._planned()
            nursery.cancel_scope.cancel()

    async def _upload(self, stream: trio.SocketStream, begun: trio.Event) -> None:
        # Both kanidmds read the body before they look at it, and ask for no session before that.
        head = b"POST /v1/credential/_exchange_intent HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head + b"transfer-encoding: chunked\r\n\r\n")
            while True:
                await stream.send_all(b"40\r\n" + b" " * 64 + b"\r\n")
                await trio.sleep(0.05)
                begun.set()

    async def _freeze(self) -> None:
        pid = await self._world.ready(None)
        os.kill(pid, signal.SIGSTOP)
        await trio.sleep(self._random.uniform(0.02, 0.4))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def _storm(self) -> None:
        for _ in range(self._random.randint(5, 30)):
            self._world.process.send_signal(signal.SIGHUP)
            await trio.sleep(self._random.uniform(0.0, 0.01))
        await self._world.ask("reload")

    async def _bad_config(self) -> None:
        broken = self._random.choice(
            [
                "listen_addr = [",
                self._config + '\nno_such_key = "1"\n',
                self._config.replace('health_check_interval = "500ms"', 'health_check_interval = "soon"'),
                re.sub(r"(?m)^jwt_private_key = .*$", 'jwt_private_key = "/nowhere/key.pem"', self._config),
                "\x00\xff",
                "",
            ]
        )
        self._world.set(broken)
        try:
            self._world.process.send_signal(signal.SIGHUP)
            outcome = await self._world.ask("reload")
            if outcome["ok"] and broken:
                raise AssertionError(f"a broken configuration was taken: {broken[-80:]!r}")
        finally:
            self._world.set(self._config)
        outcome = await self._world.ask("reload")
        if not outcome["ok"]:
            raise AssertionError(f"the good configuration was refused: {outcome}")

    async def _slow_clients(self) -> None:
        """Start them and leave them beside the faults to come."""
        for number in range(self._random.randint(1, _SLOW_CLIENTS)):
            self._nursery.start_soon(self._slow_client, number, self._random.uniform(0.1, 4.0))
        await trio.sleep(self._random.uniform(0.05, 0.2))

    async def _slow_client(self, number: int, seconds: float) -> None:
        sock = trio.socket.socket()
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 2048)  # so that what is not read is soon noticed
        async with trio.SocketStream(sock) as stream:
            await sock.connect(("127.0.0.1", self._world.port))
            with trio.move_on_after(seconds), suppress(trio.BrokenResourceError):
                await self._be_slow(stream, number)

    async def _be_slow(self, stream: trio.SocketStream, number: int) -> None:
        head = b"POST /v1/auth HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9000\r\n"
        if number % 3 == 0:  # never ends its head
            for byte in head:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.05)
        elif number % 3 == 1:  # never ends its body
            await stream.send_all(head + b"\r\n")
            while True:
                await stream.send_all(b" ")
                await trio.sleep(0.05)
        else:  # asks much and reads nothing
            while True:
                await stream.send_all(b"GET /v1/self HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
        await trio.sleep_forever()

    async def _full_disk(self) -> None:
        if not self._world.log_is_a_disk:
            self._world.set(re.sub(r"(?m)^log_file = .*$", 'log_file = "/dev/full"', self._config))
            await self._world.ask("reload")
            await trio.sleep(self._random.uniform(0.05, 0.3))
            self._world.set(self._config)
            await self._world.ask("reload")
            return
        filler = self._world.log.with_name("filler")
        file = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            block = 1 << 20
            while block:
                try:
                    os.write(file, bytes(block))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block //= 2
            await trio.sleep(self._random.uniform(0.05, 0.3))
        finally:
            os.close(file)
            filler.unlink()
        if self._world.log.stat().st_size > 4 << 20:
            os.truncate(self._world.log, 0)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
