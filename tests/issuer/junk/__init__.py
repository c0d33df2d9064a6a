"""Bad input: whatever comes, each endpoint names the mistake and goes on."""
