"""What came of every request: counted, with the first examples of what must not happen."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.wire import Answer, Broken, Client

_EXAMPLES = 20


class Uncertain(Exception):
    """The request may or may not have had its effect, and we were told so: a 502 to what was sent when kanidmd died."""


class Lost(Exception):
    """The request was refused, or got no answer or a wrong one: what must not happen."""


class Anew(Exception):
    """kanidmd has forgotten the login that was under way when it was killed (it keeps those in memory): begin again."""


@dataclass
class Tally:
    """``counts`` by (kind of request, outcome); outcomes are ok, uncertain, anew, lost."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    duplicates: int = 0
    unexplained: Counter[str] = field(default_factory=Counter)  # uncertain though nobody had ended kanidmd, but in order; by kind
    slowest: float = 0.0
    lives: int = 0  # how often kanidmd was ended, or served anew: a login that spans such a moment may have to begin anew
    ending: bool = False  # it has been told to end: it may say by itself that a login cannot be

    def total(self, outcome: str) -> int:
        """Return how many requests had that outcome."""
        return sum(count for (_, found), count in self.counts.items() if found == outcome)

    def note(self, kind: str, outcome: str, example: str = "") -> None:
        """Count one."""
        self.counts[kind, outcome] += 1
        if outcome == "lost" and len(self.examples) < _EXAMPLES:
            self.examples.append(f"{kind}: {example}")

    async def ask(
        self,
        kind: str,
        client: Client,
        method: str,
        target: str,
        expected: tuple[int, ...] = (200,),
        *,
        since: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        form: dict[str, str] | None = None,
        body: object = None,
    ) -> Answer:
        """Ask and count. ``since``: how many lives had ended when what this request belongs to began.

        Raises Uncertain, Anew, Lost.
        """
        lives, ending = self.lives, self.ending
        where = f"{method} {target.partition('?')[0]}"
        try:
            answer = await client.ask(method, target, headers=headers, form=form, body=body)
        except Broken as error:
            self.note(kind, "lost", f"{where}: {error}")
            raise Lost from None
        if answer.status in expected:
            self.note(kind, "ok")
            return answer
        if method not in ("GET", "HEAD") and (answer.status, answer.own_error) == (502, "upstream_failed"):
            self.note(kind, "uncertain")
            self.unexplained[kind] += lives == self.lives and not ending
            raise Uncertain
        if not answer.own_error and since is not None and (since != self.lives or self.ending):
            self.note(kind, "anew")
            raise Anew
        text = re.sub(r"<[^>]+>|\s+", " ", answer.body.decode("utf-8", "replace"))[-300:]
        self.note(kind, "lost", f"{where}: {answer.status} {text!r} ({self.lives} lives so far)")
        raise Lost
