"""Tests against the real kanidmd, through the front: ``kiwi-id run`` as a real process, TLS on both sides."""
