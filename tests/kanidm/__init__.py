"""Tests of our client of Kanidm, and of everything through the front over the real kanidmd: real processes, TLS on both sides."""
