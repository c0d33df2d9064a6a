"""A scripted kanidmd: starts in some 40 ms, serves TLS as server.toml says, and misbehaves as ``behaviour.json`` says.

Run as a script, with ``-IS`` so that it starts fast; it imports nothing of Kiwi ID. ``behaviour.json`` beside server.toml is a
list of one behaviour a life, the last of which repeats; what happens is appended to ``events.jsonl``. A behaviour's keys:

``print``: lines to print first; ``exit``: end with this code before readiness; ``exit_after``: ``[code, seconds]`` after it;
``room``: write so many bytes beside the database, or end with 1 when there is no room; ``never_ready``: do not listen; ``hang``:
accept and never answer; ``ready_after``: seconds until it listens; ``held``: it listens once there is a file ``go`` beside
server.toml; ``early_hup``: take a HUP before readiness instead of dying of it; ``ignore_term``; ``linger``: at a TERM stop
listening, but serve open connections on for so many seconds; ``lose_terms``: so many TERMs have no effect; ``grandchild``:
``"group"`` or ``"session"``, a process that ignores TERM and holds the output pipe; ``orphans``: so many (hundreds) when ready.
``/slow?s=N`` is answered after N seconds, ``/headers`` with the request's head, everything else at once.
"""

import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    if sys.argv[1:] == ["version"]:
        print("kanidmd 1.5.0 xyz")
        return
    server = Path(sys.argv[sys.argv.index("-c") + 1])
    Fake(server.read_text(), server.with_name("behaviour.json"), server.with_name("events.jsonl")).run()


class Fake:
    def __init__(self, server: str, behaviour: Path, events: Path) -> None:
        self.settings = dict(re.findall(r'^(\w+) = "(.*)"$', server, re.MULTILINE))
        self.go = events.with_name("go")
        self.events = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        lives = json.loads(behaviour.read_text()) if behaviour.exists() else [{}]
        self.life = events.read_text().count('"start"')
        self.does = lives[min(self.life, len(lives) - 1)]
        self.terms = 0

    def event(self, event: str, /, **fields: object) -> None:
        """Append one line; a single write, so that processes that share the file do not mix theirs."""
        line = {"event": event, "life": self.life, "pid": os.getpid(), "at": time.monotonic(), **fields}
        os.write(self.events, (json.dumps(line) + "\n").encode())

    def run(self) -> None:
        does = self.does
        # Handlers first: who has seen the event may send signals.
        numbers = [signal.SIGTERM, signal.SIGUSR1] if not does.get("early_hup") else [signal.SIGTERM, signal.SIGHUP]
        for number in numbers:
            signal.signal(number, self.signalled)
        self.event("start", env=dict(os.environ), argv=sys.argv, group=os.getpgrp())
        for line in does.get("print", []):
            os.write(1, (line + "\n").encode("utf-8", "surrogateescape"))
        if kind := does.get("grandchild"):
            self.grandchild(kind)
        if "exit" in does:
            os._exit(does["exit"])
        if size := does.get("room"):
            self.need(size)
        time.sleep(does.get("ready_after", 0))
        while does.get("held") and not self.go.exists():
            time.sleep(0.01)
        if does.get("never_ready"):
            while True:
                signal.pause()
        self.serve()

    def need(self, size: int) -> None:
        """Write beside the database, as SQLite does at a start."""
        file = Path(self.settings["db_path"] + "-wal")
        try:
            file.write_bytes(bytes(size))
        except OSError as error:
            os.write(1, f"{error}\n".encode())
            os._exit(1)
        finally:
            file.unlink(missing_ok=True)

    def signalled(self, number: int, _frame: object) -> None:
        self.event("signal", name=signal.Signals(number).name)
        if number == signal.SIGHUP and hasattr(self, "context"):
            self.context.load_cert_chain(self.settings["tls_chain"], self.settings["tls_key"])
        if number == signal.SIGTERM and self.does.get("linger"):
            self.listener.close()
        elif number == signal.SIGTERM and not self.does.get("ignore_term"):
            self.terms += 1
            if self.terms > self.does.get("lose_terms", 0):
                os._exit(0)

    def grandchild(self, kind: str) -> None:
        ready, tell = os.pipe()
        if os.fork():
            os.read(ready, 1)
            return
        if kind == "session":
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.event("grandchild")
        os.write(tell, b"x")
        while True:
            time.sleep(60)

    def orphans(self, count: int) -> None:
        """Make ``count`` processes, a hundred to a parent, which ends before or after they do: in both cases init gets them."""
        for _ in range(count // 100):
            if os.fork() == 0:
                for _ in range(100):
                    if os.fork() == 0:
                        os._exit(0)
                os._exit(0)
        for _ in range(count // 100):
            os.wait()
        self.event("orphans")

    def serve(self) -> None:
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.settings["tls_chain"], self.settings["tls_key"])
        does = self.does
        host, port = self.settings["bindaddress"].rsplit(":", 1)
        signal.signal(signal.SIGHUP, self.signalled)
        self.listener = listener = socket.create_server((host, int(port)), backlog=64)
        self.event("ready")
        if count := does.get("orphans"):
            threading.Thread(target=self.orphans, args=(count,)).start()
        if after := does.get("exit_after"):
            threading.Timer(after[1], os._exit, [after[0]]).start()
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed by a TERM
                time.sleep(does["linger"])
                os._exit(0)
            threading.Thread(target=self.answer, args=(context, client), daemon=True).start()

    def gone(self) -> bytes:
        raise OSError("the client has gone in the middle of a body")

    def answer(self, context: ssl.SSLContext, client: socket.socket) -> None:
        if self.does.get("hang"):
            time.sleep(3600)
        try:
            with context.wrap_socket(client, server_side=True) as stream:
                stream.settimeout(60)
                buffered = b""
                while True:
                    while b"\r\n\r\n" not in buffered:
                        part = stream.recv(65536)
                        if not part:
                            return
                        buffered += part
                    head, _, buffered = buffered.partition(b"\r\n\r\n")
                    target = head.split(b" ")[1].decode()
                    length = int(re.findall(rb"(?i)\r\ncontent-length: *(\d+)", head + b"\r\ncontent-length: 0")[0])
                    while len(buffered) < length:
                        buffered += stream.recv(65536) or self.gone()
                    content, buffered = buffered[:length], buffered[length:]
                    if head.startswith(b"POST"):
                        self.event("post", content=content.decode())
                    if target.startswith("/slow"):
                        self.event("request", target=target)
                        time.sleep(float(target.partition("s=")[2]))
                    if target == "/status":
                        self.event("probe")
                    body = head if target == "/headers" else f"life {self.life}".encode()
                    stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        except OSError:
            pass


if __name__ == "__main__":
    main()
