"""The front: accept, parse and refuse (connection), decide (router), wait (gate), pass on (forwarder). Knows no OIDC.

Read in this order: ``listener`` → ``connection`` → ``exchange`` → ``router`` → ``gate`` → ``forwarder`` → ``pool``; ``rules``
holds every decision about header fields and request lines, ``pages`` what we say when we answer ourselves.
"""
