"""Forward-auth: proxies ask ``/auth/verify`` about each request to an application that knows nothing of logins.

Kiwi ID is its own relying party here: a client of its own issuer, which it asks in process. See docs/forward-auth.md.
"""
