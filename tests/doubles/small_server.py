"""A server of a few lines in a process of its own, which behaves as its arguments say: PORT MANNER [FILE].

well        answers
error       prints an error and exits with code 1
deaf        never listens
refuses     is up, and refuses every chat with 500
stubborn    answers, and ignores SIGTERM
parent      answers, and has a child, whose number it writes to FILE
falls       answers until FILE exists, then is silent; where FILE has text, exits with code 4 instead
once        answers at its first start; exits with code 5 at later ones, which FILE counts
garbage     prints bytes that are no text, and exits
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    manner, file = "well", Path()

    def do_GET(self) -> None:
        if self.manner == "falls" and self.file.exists():
            if self.file.read_text():
                os._exit(4)
            time.sleep(60)
        self._answer(200, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.manner == "refuses":
            self._answer(500, b"no chat template")
        else:
            self._answer(200, b"{}")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: int, manner: str, file: Path) -> None:
    print(f"starting as {manner}", flush=True)
    if manner == "error":
        sys.exit("CUDA out of memory")
    if manner == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe broken\n")
        sys.exit(3)
    if manner == "deaf":
        time.sleep(600)
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if manner == "parent":
        file.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    if manner == "once":
        with file.open("a") as starts:
            starts.write(".")
        if len(file.read_text()) > 1:
            sys.exit(5)
    Handler.manner, Handler.file = manner, file
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
