"""An endpoint in a process of its own that kills itself in the middle of things, and is started
again at once. Only the standard library, so it is up in no time.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self


def serve(port: int, log: Path, dies_at: set[int]) -> None:
    """Answer; each request and each answer that is out is a line of `log`."""
    lock = threading.Lock()

    def note(what: str, prompt: str) -> int:
        with lock, log.open("a+") as file:
            file.write(json.dumps([what, prompt]) + "\n")
            file.flush()
            file.seek(0)
            return sum(json.loads(line)[0] == "got" for line in file)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
            number = note("got", prompt)
            if number in dies_at and number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            text = hashlib.sha256(prompt.encode()).hexdigest()[:4]
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
            raw = json.dumps(
                {
                    "model": "tiny-model",
                    "choices": [choice],
                    "usage": {"prompt_tokens": 5, "completion_tokens": 4},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            if number in dies_at:
                self.wfile.write(raw[: len(raw) // 2])
                self.wfile.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            self.wfile.write(raw)
            self.wfile.flush()
            note("sent", prompt)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever(0.02)


class Endpoint:
    """The server, while it is wanted.

    Args:
        log: Where it notes what it is asked.
        dies_at: Numbers of requests at which it dies.
    """

    def __init__(self, log: Path, dies_at: list[int]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url, self._log, self.deaths = f"http://127.0.0.1:{self._port}/v1", log, 0
        self._command = [
            sys.executable,
            "-S",
            "-E",
            __file__,
            str(self._port),
            str(log),
            json.dumps(dies_at),
        ]
        self._wanted, self._process = True, subprocess.Popen(self._command)
        self._keeper = threading.Thread(target=self._keep)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if not self._wanted:
                return
            self.deaths += 1
            self._process = subprocess.Popen(self._command)

    def __enter__(self) -> Self:
        self._keeper.start()
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        self._wanted = False
        self._process.kill()
        self._keeper.join()

    def _lines(self, what: str) -> list[str]:
        return [
            prompt
            for said, prompt in map(json.loads, self._log.read_text().splitlines())
            if said == what
        ]

    def got(self) -> int:
        """Requests so far."""
        return len(self._lines("got"))

    def answered(self) -> list[str]:
        """Prompts whose whole answer is out."""
        return self._lines("sent")


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), set(json.loads(sys.argv[3])))
