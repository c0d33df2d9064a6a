"""Make a shapes file from a recording of a real Kanidm: `python tests/data/make_shapes.py RECORDING.json > shapes-X.json`.

A recording is a list of `{label, method, url, req_headers, req_body, status, headers, body}`. Recordings hold tokens and
Kanidm's pages, so they are not kept here; their shapes are.
"""

import json
import runpy
import sys
from pathlib import Path

_SHAPES = Path(__file__).resolve().parent.parent / "devserver" / "shapes.py"


def main() -> int:
    """Read the recording named on the command line and print its shapes."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 64
    recording = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(runpy.run_path(str(_SHAPES))["shapes"](recording), indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
