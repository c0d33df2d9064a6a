"""The pages people see: our own HTML, with the titles, form actions and field names that Kanidm's pages have."""

from html import escape

__all__ = [
    "STYLE",
    "access_denied",
    "apps",
    "consent",
    "denied",
    "error",
    "login",
    "new_password",
    "password",
    "password_set",
    "profile",
    "reset",
    "totp",
]

STYLE = """:root { color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: flex; flex-direction: column; }
.banner { background: #ffd54d; color: #222; padding: .5rem 1rem; text-align: center; }
main { max-width: 24rem; width: calc(100% - 2rem); margin: auto; padding: 2rem 0; }
h1 { font-size: 1.4rem; } label { display: block; margin: .8rem 0 .2rem; }
input[type=text], input[type=password] { width: 100%; box-sizing: border-box; padding: .6rem; font: inherit; }
button { width: 100%; margin-top: 1rem; padding: .7rem; font: inherit; cursor: pointer; }
.check { display: flex; gap: .5rem; align-items: center; } .check label { margin: 0; }
.note { padding: .6rem; border: 1px solid #8a8; border-radius: .3rem; } .alert { border-color: #c44; }
.d-none { display: none; } code { overflow-wrap: anywhere; }
"""

_NOTICE = "Kiwi ID stand-in for Kanidm – for development and tests only"


def _page(title: str, content: str) -> bytes:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="/pkg/img/logo-square.svg">
<link rel="stylesheet" href="/pkg/style.css">
</head>
<body>
<p class="banner">{_NOTICE}</p>
<main id="main">
{content}
</main>
</body>
</html>
""".encode()


def login(domain: str, username: str, remember: bool, client: str | None, problem: str | None) -> bytes:
    """The first page of a login: who are you? `client` is the application that sent the person here."""
    note = f'<p class="note">Authenticate to access {escape(client)}</p>' if client else ""
    alert = f'<p class="note alert" role="alert">{escape(problem)}</p>' if problem else ""
    checked = " checked" if remember else ""
    return _page(
        "Login",
        f"""<h1>Log in to {escape(domain)}</h1>
{note}{alert}
<form id="login" action="/ui/login/begin" method="post">
<label for="username">Username</label>
<input id="username" name="username" type="text" autocomplete="username" value="{escape(username)}" required autofocus>
<input class="d-none" id="password" name="password" type="password" autocomplete="current-password" value="">
<input class="d-none" id="totp" name="totp" type="text" inputmode="numeric" autocomplete="one-time-code" value="">
<p class="check"><input type="checkbox" name="remember_me" id="remember_me_check" value="1"{checked}>
<label for="remember_me_check">Remember my username</label></p>
<button type="submit">Begin</button>
</form>""",
    )


def password(domain: str, value: str) -> bytes:
    """The page that asks for the password; `value` is what a password manager filled in earlier."""
    return _page(
        "Login",
        f"""<h1>Log in to {escape(domain)}</h1>
<form id="login" action="/ui/login/pw" method="post">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" value="{escape(value)}"
 required autofocus>
<button type="submit">Submit</button>
</form>""",
    )


def totp(domain: str, value: str, bad_syntax: bool = False) -> bytes:
    """The page that asks for the one-time code."""
    alert = '<p class="note alert" role="alert">A code has only digits; please try again.</p>' if bad_syntax else ""
    return _page(
        "Login",
        f"""<h1>Log in to {escape(domain)}</h1>
{alert}
<form id="login" action="/ui/login/totp" method="post">
<label for="totp">Two-factor authentication code</label>
<input class="d-none" id="password" name="password" type="password" autocomplete="current-password" value="">
<input id="totp" name="totp" type="text" inputmode="numeric" autocomplete="one-time-code" value="{escape(value)}"
 required autofocus>
<button type="submit">Submit</button>
</form>""",
    )


def denied(domain: str, reason: str, opid: str) -> bytes:
    """The login failed."""
    return _page(
        "Login",
        f"""<h1>Log in to {escape(domain)}</h1>
<h2>Login Failed</h2>
<p>Reason: {escape(reason)}</p>
<p>Operation ID: <code>{escape(opid)}</code></p>
<p><a href="/ui/login">Return to login</a></p>""",
    )


def consent(client: str, pii: list[str], token: str) -> bytes:
    """The application asks for these personal data; the person may proceed, or close the page."""
    items = "".join(f"<li>{escape(item)}</li>" for item in pii)
    asked = f"<p>It asks for this personal information:</p>\n<ul>{items}</ul>" if pii else "<p>It asks for no personal data.</p>"
    return _page(
        "Consent Required",
        f"""<h1>Proceed to {escape(client)}?</h1>
{asked}
<form id="login" action="/ui/oauth2/consent" method="post">
<input type="hidden" id="consent_token" name="consent_token" value="{escape(token)}">
<button type="submit" autofocus>Proceed</button>
</form>""",
    )


def access_denied(opid: str) -> bytes:
    """The person may not use this application, or not with these scopes."""
    return _page(
        "Access Denied",
        f"""<h1>Access denied</h1>
<p>Your account may not use this application. If that is a mistake, tell your administrator this number:</p>
<p>Operation ID: <code>{escape(opid)}</code></p>""",
    )


def error(domain: str, code: str, opid: str) -> bytes:
    """Something that the person cannot mend here."""
    return _page(
        "Error",
        f"""<h1>{escape(domain)}</h1>
<h2>Error</h2>
<p>This cannot go on. Please send your administrator the details below.</p>
<p>Operation ID: <code>{escape(opid)}</code></p>
<p>Error Code: {escape(code)}</p>
<p><a href="/ui">Return</a></p>""",
    )


def apps(name: str, links: list[tuple[str, str]]) -> bytes:
    """What the account can go to: pairs of display name and URL."""
    items = "".join(f'<li><a href="{escape(url)}">{escape(label)}</a></li>' for label, url in links)
    shown = f"<ul>{items}</ul>" if items else "<p>No linked applications available</p>"
    return _page(
        "Applications",
        f"""<h1>Applications</h1>
<p>You are logged in as {escape(name)}.</p>
{shown}
<p><a href="/ui/profile">Profile</a> · <a href="/ui/logout">Sign out</a></p>""",
    )


def profile(name: str, spn: str, mail: str | None) -> bytes:
    """Who the person is logged in as."""
    shown = f"<p>E-mail: {escape(mail)}</p>" if mail else ""
    return _page(
        "Profile",
        f"""<h1>{escape(name)}</h1>
<p>{escape(spn)}</p>
{shown}
<p><a href="/ui/apps">Applications</a> · <a href="/ui/logout">Sign out</a></p>""",
    )


def reset(domain: str, problem: str | None) -> bytes:
    """The page of reset links, for a person who has only the token."""
    alert = f'<p class="note alert" role="alert">{escape(problem)}</p>' if problem else ""
    return _page(
        "Reset Credentials",
        f"""<h1>{escape(domain)}</h1>
<h2>Credential reset</h2>
{alert}
<form method="get" action="/ui/reset">
<label for="token">Enter your credential reset token.</label>
<input id="token" name="token" type="text" required autofocus>
<button type="submit">Submit</button>
</form>""",
    )


def new_password(domain: str, name: str, problem: str | None) -> bytes:
    """The form for a new password."""
    alert = f'<p class="note alert" role="alert">{escape(problem)}</p>' if problem else ""
    return _page(
        "Reset Credentials",
        f"""<h1>{escape(domain)}</h1>
<h2>New password for {escape(name)}</h2>
{alert}
<form id="newPasswordForm" method="post" action="/ui/reset/add_password">
<label for="new-password">Enter new password</label>
<input id="new-password" name="new_password" type="password" autocomplete="new-password" required autofocus>
<label for="new-password-check">Repeat password</label>
<input id="new-password-check" name="new_password_check" type="password" autocomplete="new-password" required>
<button type="submit">Save</button>
</form>""",
    )


def password_set(domain: str) -> bytes:
    """The new password is in force."""
    return _page(
        "Reset Credentials",
        f"""<h1>{escape(domain)}</h1>
<p class="note">Your new password is set.</p>
<p><a href="/ui/login">Log in</a></p>""",
    )
