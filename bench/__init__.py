"""Programs that measure Kiwi ID beside its peers in one run and print ratios. Not installed, not run by the tests."""
