"""Declarative identities: the state file, and Kanidm made equal to it, over the stand-in and over the real kanidmd."""
