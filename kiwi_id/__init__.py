"""Kiwi ID: the identity front of KiwiStack, a Trio supervisor and OIDC front over an unmodified Kanidm."""

__version__ = "0.1.0"
