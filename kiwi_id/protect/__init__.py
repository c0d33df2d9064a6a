"""Login protection: how many wrong logins and refused token requests of one address, account or client are let through.

Kanidm's own soft lock stays as it is and knows accounts only; this knows addresses (docs/protection.md has the reasoning).
"""
