"""``python -m kiwi_id``: the same as the ``kiwi-id`` command, without an installation."""

import sys

from kiwi_id.cli import main

sys.exit(main())
