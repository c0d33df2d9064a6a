"""The front on real sockets: raw bytes in, raw bytes out, against a scripted TLS server in Kanidm's place."""
