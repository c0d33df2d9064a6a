"""Forward-auth: rules and sessions by themselves, whole logins over the stand-in and the real kanidmd, and real proxies."""
