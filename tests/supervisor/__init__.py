"""Tests of the supervisor: real processes and signals, and the restart policy on Trio's mock clock."""
