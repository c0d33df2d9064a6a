"""Faults: a load of logins, reads, writes and refreshes while kanidmd is killed, stopped, starved and misconfigured under it."""
