"""The test suite; a package, so that test modules of the same name in different rooms do not collide."""
