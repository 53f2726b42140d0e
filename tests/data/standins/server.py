#!/usr/bin/python3
"""A stand-in for a server: it behaves as its first argument says.

late     says it is ready and listens on no port
silent   listens and never says so
wrong    answers with another body than asked for
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"other")


def main() -> None:
    behaviour, port = sys.argv[1], int(sys.argv[2])
    if behaviour == "late":
        print("ready http://127.0.0.1/", flush=True)
        time.sleep(600)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if behaviour == "wrong":
        print("ready http://127.0.0.1/", flush=True)
    server.serve_forever()


main()
