"""The OIDC facade: one issuer over Kanidm's one issuer per client. Knows nothing of processes, signals or the web framework.

``service`` is the door: it takes a :class:`~kiwi_id.issuer.http.Request` and returns a :class:`~kiwi_id.issuer.http.Response`.
"""
