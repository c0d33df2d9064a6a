"""Tests of the stand-in for Kanidm: the real process, compared with recordings of the real server."""
