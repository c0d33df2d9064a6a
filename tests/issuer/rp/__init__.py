"""A relying party from PyPI, Authlib, logs people in: it knows the discovery URL and its own name and secret, nothing else."""
