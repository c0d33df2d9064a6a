"""nginx with one worker: TLS on both sides, a keep-alive pool upstream, bodies streamed through memory. Becomes nginx by exec."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bench.peers import UPSTREAM_CONNECTIONS, Arguments, arguments


def find() -> str | None:
    """Return the nginx of this machine, or None."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


def configuration(args: Arguments, directory: Path) -> str:
    """Return nginx.conf.

    ``master_process off`` makes the one worker the process we started, so that its CPU and memory are found. The numbers of
    requests on a connection are limited by default, which here would measure handshakes. Buffers in memory only, and no buffering
    of whole requests: a proxy that writes bodies to disk is another thing than one that passes them on.
    """
    protocols = "TLSv1.2 TLSv1.3"  # 1.22 has 1.3 off by default; all others speak it
    tls = (
        f"ssl_certificate {args.cert}; ssl_certificate_key {args.key}; ssl_session_tickets on; ssl_protocols {protocols};"
        if args.cert
        else ""
    )
    return f"""\
daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 65536;
pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nodelay on;
  keepalive_timeout 600s; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream kanidmd {{
    server {args.upstream.removeprefix("https://")};
    keepalive {UPSTREAM_CONNECTIONS}; keepalive_requests 1000000000; keepalive_timeout 60s;
  }}
  server {{
    listen {args.host}:{args.port} {"ssl" if tls else ""} backlog=1024; {tls}
    location / {{
      proxy_pass https://kanidmd; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {args.chain}; proxy_ssl_name localhost;
      proxy_ssl_session_reuse on; proxy_ssl_protocols {protocols};
      proxy_request_buffering off; client_body_buffer_size 64k;
      proxy_buffering on; proxy_buffer_size 16k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;
    }}
  }}
}}
"""


def main() -> None:
    """Write the configuration beside the certificate chain and become nginx."""
    args = arguments()
    binary = find()
    if binary is None:
        raise SystemExit("bench: there is no nginx on this machine")
    directory = Path(args.cert or args.chain).parent / f"nginx-{args.port}"
    directory.mkdir()
    file = directory / "nginx.conf"
    file.write_text(configuration(args, directory), encoding="utf-8")
    sys.stdout.flush()
    os.execv(binary, [binary, "-p", str(directory), "-c", str(file), "-e", "stderr"])  # noqa: S606 - there is no shell wanted


if __name__ == "__main__":
    main()
