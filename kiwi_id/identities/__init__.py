"""Declarative identities: a state file of persons, groups, service accounts and OAuth2 clients, and Kanidm made equal to it.

``load`` reads the file, ``observe`` reads Kanidm, ``diff`` compares the two and is pure, ``apply`` carries the steps out, and
``export`` writes the file of a running instance. docs/identities.md describes the file.
"""
