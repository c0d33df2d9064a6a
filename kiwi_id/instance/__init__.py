"""Making an instance: its layout, certificates, signing keys, and the check of them. Never imported by the hot path."""
