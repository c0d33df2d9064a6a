"""Login protection: the arithmetic, who is counted, what is answered, and whole logins through a running Kiwi ID."""
