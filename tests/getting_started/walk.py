"""Doing what the document says, on a scratch machine, step by step."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.getting_started.document import Commands, File, Output, Person, Piece
from tests.getting_started.scratch import Scratch


@dataclass
class Walk:
    """One way through the document; ``last`` is what the step before printed."""

    machine: Scratch
    last: str = field(default="", init=False)

    def go(self, pieces: Iterable[Piece]) -> None:
        """Do all steps in their order; the first that does not do as the document says fails, with all that it printed."""
        for piece in pieces:
            match piece:
                case Commands():
                    done = self.machine.run("bash", "-euo", "pipefail", "-c", piece.text)
                    assert done.status == piece.status, f"{piece.text}\nended with {done.status}:\n{done.output}{self.more()}"
                    self.last = done.output
                case File():
                    self.machine.write(piece.path, piece.text)
                case Output():
                    assert piece.fits(self.last), f"the document promises\n{piece.text}\nand there was\n{self.last}"
                case Person():
                    self.last = self.do(piece.words)

    def do(self, words: str) -> str:
        """Do what a person does; return what is to be seen then."""
        if words == "alice sets a password and a one-time code":
            return self.set_password("alice", self.last)
        if words == "alice reads her mail":
            return self.person("read-mail", "alice")
        raise ValueError(f"nobody here can do this: {words}")

    def set_password(self, name: str, told: str) -> str:
        """Have somebody follow the reset link that ``kiwi-id user reset-link`` has printed."""
        link = re.search(r"https://\S+", told)
        assert link, told
        return self.person("set-password", name, link[0])

    def ok(self, *command: str) -> str:
        """Run a command that must work; return what it printed."""
        done = self.machine.run(*command)
        assert done.status == 0, f"{command}\n{done.output}{self.more()}"
        return done.output

    def person(self, *deed: str) -> str:
        """Have a person do something on the machine."""
        return self.ok(sys.executable, "-m", "tests.getting_started.person", *deed)

    def more(self) -> str:
        """Return the ends of the logs that may say why something went wrong."""
        logs = "/var/log/kiwi/console.log /var/log/webmail.log /var/log/dovecot.log"
        return "\n" + self.machine.run("sh", "-c", f"tail -n 20 {logs} 2> /dev/null").output
