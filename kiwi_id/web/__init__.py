"""What Kiwi ID serves itself: the probes, the issuer, and the Quart-Trio application, entered through Hypercorn's ASGI."""
