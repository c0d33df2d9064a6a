"""Start a program as systemd does that has a socket unit: descriptors from 3 on, and the variables that tell about them.

Run as a script: ``activate.py NAMES DESCRIPTOR[,DESCRIPTOR…] PROGRAM [ARGUMENT…]``; the descriptors are inherited ones.
"""

from __future__ import annotations

import os
import sys

FIRST = 3

if __name__ == "__main__":
    names, numbers, *command = sys.argv[1:]
    # Out of the way first: one of them may lie where another shall be.
    away = [os.dup(int(number)) for number in numbers.split(",")]
    for place, number in enumerate(away, FIRST):
        os.dup2(number, place)
        os.set_inheritable(place, True)
    environ = {"LISTEN_FDS": str(len(away)), "LISTEN_FDNAMES": names, "LISTEN_PID": str(os.getpid())}
    os.execve(command[0], command, os.environ | environ)  # noqa: S606
