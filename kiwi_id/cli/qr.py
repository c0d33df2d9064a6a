"""A QR code on a terminal."""

from __future__ import annotations

import segno

# Black on white by name, whatever the terminal's own colours are: many readers do not take light on dark.
_COLOURS, _PLAIN = "\x1b[30;107m", "\x1b[0m"
_QUIET = 4
"""Modules of white around, which ISO/IEC 18004 asks for."""


def qr_lines(text: str) -> list[str]:
    """Return ``text`` as a QR code, two rows of modules to a line."""
    rows = [list(row) for row in segno.make(text, micro=False, error="m").matrix_iter(border=_QUIET)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    blocks = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
    return [
        _COLOURS + "".join(blocks[bool(up), bool(down)] for up, down in zip(rows[at], rows[at + 1], strict=True)) + _PLAIN
        for at in range(0, len(rows), 2)
    ]
