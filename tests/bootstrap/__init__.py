"""Bootstrap: our own account in Kanidm, over the stand-in and over the real kanidmd."""
