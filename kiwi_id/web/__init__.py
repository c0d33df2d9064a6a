"""The Quart-Trio application: what Kiwi ID serves itself (probes now, the issuer later), entered through Hypercorn's ASGI."""
