"""The admin socket's client against sockets that answer as Kanidm does, and as it should not; the real one is in test_rest."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kiwi_id.errors import Exit
from kiwi_id.kanidm.admin import ANSWER_LIMIT, AdminRequestRefused, AdminSocketUnavailable, recover_account

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be: a short path, because it may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="kiwi-") as directory:
        yield Path(directory) / "sock"


@asynccontextmanager
async def serving(path: Path, handler: Handler) -> AsyncIterator[None]:
    """Listen on ``path`` and handle connections."""
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, handler, [trio.SocketListener(listener)])
            yield
            nursery.cancel_scope.cancel()


async def test_password_in_pieces(path: Path) -> None:
    """The request is the JSON that Kanidm reads; an answer that comes byte by byte, umlaut included, is put together."""
    requests: list[object] = []

    async def answer(stream: trio.SocketStream) -> None:
        requests.append(json.loads(await stream.receive_some()))
        for byte in json.dumps({"RecoverAccount": {"password": "geheim-ü"}}, ensure_ascii=False).encode():
            await stream.send_all(bytes([byte]))

    async with serving(path, answer):
        assert await recover_account(path, "idm_admin") == "geheim-ü"
    assert requests == [{"RecoverAccount": {"name": "idm_admin"}}]


@pytest.mark.parametrize("said", [b'"Error"', b'"Success"', b'{"RecoverAccount":{}}', b"17"])
async def test_refusal(path: Path, said: bytes) -> None:
    """Whatever is not a password is a refusal that names the account."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(said)

    async with serving(path, answer):
        with pytest.raises(AdminRequestRefused, match="the account 'nobody'") as refused:
            await recover_account(path, "nobody")
    assert refused.value.exit_code == Exit.FAILURE


async def test_closed_without_an_answer(path: Path) -> None:
    """Kanidm drops connections of other users; the words say who may."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.aclose()

    async with serving(path, answer):
        with pytest.raises(AdminSocketUnavailable, match="only root and the user it runs as"):
            await recover_account(path, "admin")


async def test_answer_without_end(path: Path) -> None:
    """Something that talks for ever is given up after the limit."""

    async def answer(stream: trio.SocketStream) -> None:
        try:
            while True:
                await stream.send_all(b"[" * ANSWER_LIMIT)
        except trio.BrokenResourceError:
            pass

    async with serving(path, answer):
        with pytest.raises(AdminSocketUnavailable, match="is this Kanidm's socket"):
            await recover_account(path, "admin")


async def test_no_answer(path: Path, autojump_clock: MockClock) -> None:
    """Silence is bounded by the timeout, which the words name. Exit code 69: a supervisor may try again."""

    async def answer(_stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(path, answer):
        with pytest.raises(AdminSocketUnavailable, match="within 30 s") as unavailable:
            await recover_account(path, "admin")
    assert unavailable.value.exit_code == Exit.UNAVAILABLE
    assert autojump_clock.current_time() == pytest.approx(30)


async def test_no_socket(path: Path) -> None:
    """A path where nothing is leads to adminbindpath and its default."""
    with pytest.raises(AdminSocketUnavailable, match=r"no such socket.*adminbindpath"):
        await recover_account(path, "admin")


async def test_socket_that_was_left_behind(path: Path) -> None:
    """A socket without a listener, as a crash leaves it, is named as such."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gone:
        gone.bind(str(path))
    with pytest.raises(AdminSocketUnavailable, match="has ended left it behind"):
        await recover_account(path, "admin")


async def test_file_that_is_no_socket(path: Path) -> None:
    """A plain file is told apart from a socket that was left behind."""
    await trio.Path(path).write_bytes(b"")
    with pytest.raises(AdminSocketUnavailable, match="not a socket"):
        await recover_account(path, "admin")


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Not to be root, who may open every socket, while the test runs."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


async def test_socket_of_another_user(path: Path, unprivileged: None) -> None:
    """Without permission the words say who has it."""
    with pytest.raises(AdminSocketUnavailable, match=r"permission denied.*only root"):
        await recover_account(path, "admin")
