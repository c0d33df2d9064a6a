"""Headless Chromium goes through the issuer's pages: what cookies, content policies and scripts do there, only a browser tells."""
