"""A local server that speaks the OpenAI chat API, well or badly, as a test tells it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Response(NamedTuple):
    """What the server sends; a body that is a dict is sent as JSON."""

    status: int = 200
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()


RATE_LIMITED = Response(429, {"error": {"message": "slow down"}}, (("retry-after-ms", "5"),))
OVERLOADED = Response(503, {"error": {"message": "busy"}}, (("retry-after-ms", "5"),))


def completion(content: str) -> Response:
    """A completion with this text, of 11 prompt and 3 completion tokens."""
    message = {"role": "assistant", "content": content}
    return Response(
        body={
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }
    )


class Server:
    """Replies by ``reply``, which is given the request's JSON; keeps what it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reply: Callable[[dict[str, Any]], Response] = lambda _: completion("{}")
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    def answer(self, request: dict[str, Any], key: str) -> Response:
        with self.lock:
            self.requests.append(request)
            self.keys.append(key)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self.reply(request)
        finally:
            with self.lock:
                self.in_flight -= 1

    def data(self, number: int = -1) -> dict[str, Any]:
        """The JSON that a request asked about."""
        data: dict[str, Any] = json.loads(self.requests[number]["messages"][-1]["content"])
        return data


@contextmanager
def serve() -> Iterator[Server]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            response = server.answer(request, self.headers.get("Authorization", ""))
            body = response.body
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(response.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                for name, value in response.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
            except OSError:  # the client has given up
                pass

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
