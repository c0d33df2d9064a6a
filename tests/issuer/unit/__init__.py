"""Tests of the issuer's modules by themselves, and of its whole service over a fake Kanidm."""
