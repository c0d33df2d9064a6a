"""Our typed client of Kanidm: server.toml, the admin socket, REST, the TLS pin. Knows nothing of HTTP serving or OIDC."""
