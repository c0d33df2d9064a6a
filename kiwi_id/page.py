"""The look of our own pages: one skeleton and one style sheet, in which nothing is loaded from anywhere."""

from __future__ import annotations

import html

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark;
  --text: #1c2b1f; --quiet: #56655a; --page: #eef2ec; --card: #fff; --line: #d5dfd4; --kiwi: #2f6b3c; }}
@media (prefers-color-scheme: dark) {{ :root {{
  --text: #e3ebe4; --quiet: #a3b3a7; --page: #111612; --card: #1a221c; --line: #36443a; --kiwi: #9fd3aa; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0; padding: 1rem;
  display: grid; place-items: center; min-height: 100vh; }}
main {{ width: 100%; max-width: 27rem; padding: 1.5rem 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .8rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; line-height: 1.25; margin: .5rem 0 1rem; }}
ul {{ padding-left: 1.3rem; }}
.choice {{ display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.5rem 0 1rem; }}
button {{ font: inherit; flex: 1 1 8rem; min-height: 2.75rem; padding: .5rem 1rem; border: 1px solid var(--kiwi);
  border-radius: .4rem; background: var(--card); color: var(--kiwi); cursor: pointer; }}
button.yes {{ background: var(--kiwi); color: var(--card); font-weight: 600; }}
a {{ color: var(--kiwi); }}
:focus-visible {{ outline: 3px solid var(--kiwi); outline-offset: 3px; }}
p.note {{ color: var(--quiet); font-size: .875rem; }}
</style>
</head>
<body><main>
<h1>{title}</h1>
{content}
</main>{tail}</body>
</html>
"""


Header = tuple[bytes, bytes]

# What is no page is not to be taken for one, whatever it begins with: JSON may hold what somebody has typed.
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")


def security_headers(*, form_action: str = "'none'", script: str = "'none'") -> list[Header]:
    """Return what every page of ours is sent with: nothing is loaded, run, framed, guessed, kept or told to the next site.

    ``form_action`` and ``script`` are sources (CSP3 §2.3.1) of what a page needs all the same. There is no
    Cross-Origin-Opener-Policy: any page of ours may come up in the midst of a login, which applications do in a window of their
    own, and the window that waits for it would lose it for good (HTML, "cross-origin opener policies").
    """
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {script}; form-action {form_action}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    return [
        (b"content-security-policy", policy.encode()),
        NOSNIFF,
        (b"x-frame-options", b"DENY"),  # browsers that are older than frame-ancestors
        (b"referrer-policy", b"no-referrer"),  # the address of a login has its parameters in it
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    ]


def document(title: str, content: str, tail: str = "") -> bytes:
    """Return a page in UTF-8. ``title`` is text; ``content``, and ``tail`` behind it, are HTML, already escaped."""
    return _PAGE.format(title=html.escape(title), content=content, tail=tail).encode()
