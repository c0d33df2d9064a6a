"""Tests of the programs in ``bench/``: that they work, never what they measure."""
