"""A small OpenAI-compatible server in a thread: around `HFEngine`, or with replies that a test
writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.tokens import encode
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt

NAME = "tiny-model"


@dataclass
class Sent:
    """What goes back: a status, a body (bytes as they are, else as JSON), headers, and what it
    waits for.

    `HELD` is never told: such a reply comes when the server is closed, which is no more of use to
    anyone.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: threading.Event | None = None


HELD = threading.Event()


@dataclass
class Asked:
    """What came in, and whether its reply is held back for ever."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    held: bool = False


Answer = Callable[[Asked, int], Any]
"""A request and how many came before it -> a reply's JSON, or `Sent`."""


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[Asked]]]:
    """The server's URL, and all that it was asked."""
    asked, lock, closing = list[Asked](), threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked)
                asked.append(Asked(self.path, body, dict(self.headers)))
            found = answer(asked[number], number)
            sent = found if isinstance(found, Sent) else Sent(found)
            raw = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
            asked[number].held = sent.after is HELD
            while sent.after and not sent.after.wait(0.02) and not closing.is_set():
                pass
            with contextlib.suppress(OSError):
                self.send_response(sent.status)
                for name, value in ({"Content-Length": str(len(raw))} | sent.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
                if int(sent.headers.get("Content-Length", 0)) > len(raw):
                    self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def around(model: Any, tokenizer: Any, window: int = 512) -> Answer:
    """A server of this model: its own answers, tokens, log-probabilities and counts."""
    engine, lock = HFEngine(model, tokenizer), threading.Lock()
    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}

    def token(id_: int, q: float) -> dict[str, Any]:
        piece = tokenizer.convert_ids_to_tokens(id_)
        raw = piece.encode() if piece.startswith("<|") else bytes([bytes_of[piece]])
        return {"token": tokenizer.decode([id_]), "bytes": list(raw), "logprob": math.log(q)}

    def answer(asked: Asked, _: int) -> Any:
        body, chat = asked.body, asked.path.endswith("/chat/completions")
        content = tuple(body["messages"]) if chat else body["prompt"]
        if isinstance(content, list):
            content = tokenizer.decode(content)
        longest = body.get("max_tokens", 16)
        tokens = len(encode(tokenizer, content))
        if tokens + longest > window:
            return Sent(
                {"error": {"message": f"the maximum context length is {window} tokens"}}, 400
            )
        kept = (body.get("top_logprobs") if chat else body.get("logprobs")) or 1
        sampling = Sampling(
            temperature=body["temperature"],
            top_p=body["top_p"],
            max_new_tokens=longest,
            stop=tuple(body.get("stop") or ()),
        )
        with lock:
            prompt = Prompt("x", "c", content)
            [said] = engine.generate(
                [prompt], sampling, Labels(kind="top_k", k=259), seed=body["seed"]
            )
        return reply(said, kept, token, chat=chat, prompt_tokens=tokens)

    return answer


def reply(
    said: Completion,
    kept: int,
    token: Callable[[int, float], dict[str, Any]],
    *,
    chat: bool,
    prompt_tokens: int,
) -> dict[str, Any]:
    entries = []
    for n, id_ in enumerate(said.token_ids):
        assert said.labels
        q = dict(said.labels.token(n))
        entries.append(
            token(id_, q[id_])
            | {"top_logprobs": [token(k, p) for k, p in said.labels.token(n)[:kept]]}
        )
    finish = "length" if said.stop == "length" else "stop"
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": {"content": entries}}
    choice |= (
        {"message": {"role": "assistant", "content": said.text}} if chat else {"text": said.text}
    )
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(said.token_ids)}
    return {"model": NAME, "choices": [choice], "usage": usage}
