"""The texts of the files that ``kiwi-id init`` writes; config.toml comes from ``config.KEYS``, so that it cannot fall behind."""

from __future__ import annotations

import json
import shlex
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiwi_id.config import KEYS, LIMIT_KEYS, PROTECTION_KEYS, Key

WIDTH = 100


def toml_value(value: Any) -> str:
    """Return a string, boolean, number or list of them as TOML: JSON's escapes are TOML's, but TOML wants DEL escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def config_toml(settings: Mapping[str, Any]) -> str:
    """Return a config.toml with ``settings`` in force and every other key as a comment with its default."""
    head = (
        "# Kiwi ID's configuration. Lines that begin with '# key =' show defaults; docs/configuration.md explains every key.\n"
        "# After a change: 'kiwi-id check', then 'kiwi-id reload' (or SIGHUP). Keys marked (restart) wait for the next start.\n"
    )
    top = "\n".join(_setting(name, key, settings) for name, key in KEYS.items())
    limits = "\n".join(_setting(name, key, {}) for name, key in LIMIT_KEYS.items())
    table = "# What one client, or all together, can make us hold. Remove the '# ' before [limits] too.\n# [limits]\n"
    protection = "\n".join(_setting(name, key, {}) for name, key in PROTECTION_KEYS.items())
    guard = "# How many wrong logins and token requests are let through. Remove the '# ' before [protection] too.\n# [protection]\n"
    return f"{head}\n{top}\n{table}\n{limits}\n{guard}\n{protection}"


def _setting(name: str, key: Key, settings: Mapping[str, Any]) -> str:
    words = key.help if key.reloadable else f"{key.help} (restart)"
    comment = textwrap.fill(words[0].upper() + words[1:], WIDTH, initial_indent="# ", subsequent_indent="# ")
    line = f"{name} = {toml_value(settings.get(name, key.default))}"
    return f"{comment}\n{line}\n" if name in settings else f"{comment}\n# {line}\n"


def server_toml(*, domain: str, origin: str, bind: str, database: Path, chain: Path, key: Path, admin_socket: Path) -> str:
    """Return a server.toml in the flat format, which Kanidm 1.5.0 and every later one so far reads."""
    return f"""\
# Kanidm's configuration, read by kanidmd and, for what it needs, by Kiwi ID. In the flat format, which every Kanidm
# from 1.5.0 on reads. After a change of tls_*: 'kiwi-id reload'; of db_path: restart Kiwi ID; else 'kiwi-id restart-upstream'.

# The name that accounts (alice@…) and passkeys are bound to. Changing it later breaks passkeys and tokens.
domain = {toml_value(domain)}
# What stands in the browser's address bar, with the port when it is not 443. Its host is the domain or below it.
origin = {toml_value(origin)}

# Where Kiwi ID reaches kanidmd (upstream_addr in config.toml): nobody else should.
bindaddress = {toml_value(bind)}
# Kiwi ID overwrites X-Forwarded-For with the true client, so it can be believed.
trust_x_forward_for = true

db_path = {toml_value(str(database))}
# Made and renewed by Kiwi ID, which pins it. Your own works as well.
tls_chain = {toml_value(str(chain))}
tls_key = {toml_value(str(key))}
adminbindpath = {toml_value(str(admin_socket))}

# info, debug or trace. The request log of kanidmd passes through Kiwi ID, which takes secrets out.
log_level = "info"
"""


def launcher(package_parent: Path) -> str:
    """Return a shell script that runs this Kiwi ID with this Python.

    ``-P`` keeps the working directory off the module path: root starts this, and anybody may have put a ``trio.py`` there.
    ``exec`` makes the supervisor itself the process that an init system or container engine sees.
    """
    run = f'exec {shlex.quote(sys.executable)} -P -m kiwi_id "$@"'
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    if package_parent.resolve() in installed:
        return f"#!/bin/sh\n{run}\n"
    return f"#!/bin/sh\n# Runs from a checkout.\nPYTHONPATH={shlex.quote(str(package_parent))}\nexport PYTHONPATH\n{run}\n"
