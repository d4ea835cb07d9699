"""A small run, and a stand-in for the Hugging Face hub."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import summarise
from atts.config import parse_config
from atts.store.run_directory import RunStore, read_run
from atts.types import Author, Chain, Decision, Problem, Segment, Timings, Turn

AT = Timings(queued=0.0, started=0.0, first_token=0.0, done=1.0)
ADDRESS = "http://gpu7.example:40000"


def segment(author: Author, text: str, tokens: int) -> Segment:
    return Segment(
        author=author, text=text, tokens=tokens, finish_reason="length", cached_tokens=0, timings=AT
    )


def a_run(directory: Path) -> None:
    """One problem, two chains: the target takes over in the first; the second is wrong."""
    decision = Decision(
        score=2.5, p_value=0.1, take_over=True, threshold=0.4, scored_tokens=3, cached_tokens=0,
        timings=AT,
    )  # fmt: skip
    right = (segment("draft", "it is ", 3), segment("target", "\\boxed{4}", 4))
    chains = [
        Chain(
            problem_id="p", sample=0, end="answer", answer="4", started=0.0, done=2.0,
            turns=(Turn(segments=right, decision=decision),),
        ),
        Chain(
            problem_id="p", sample=1, end="answer", answer="5", started=0.0, done=1.0,
            turns=(Turn(segments=(segment("draft", "\\boxed{5}", 3),)),),
        ),
    ]  # fmt: skip
    settings = {"samples": 2, "target": {"engine": "sglang", "urls": [ADDRESS]}}
    config = parse_config(settings, "a test")
    with RunStore.open(
        directory, config, [Problem(id="p", question="2 + 2?", answer="4")], None
    ) as s:
        for chain in chains:
            s.append(chain)
        s.write_summary(summarise(grade_run(read_run(directory))))


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits, from whoever has the token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status != 200:
            self._reply({"error": "no"}, self.server.status)
        elif self.headers["Authorization"] != "Bearer hf_token":
            self._reply({"error": "who is it?"}, 401)
        else:
            self._reply(self._done(body))

    def _done(self, body: bytes) -> dict[str, Any]:
        home = f"http://127.0.0.1:{self.server.server_port}/datasets/me/run"
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return {"url": home}
        if self.path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if self.path.endswith("/preupload/main"):
            files = [each["path"] for each in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": path} | how for path in files]}
        for operation in map(json.loads, body.splitlines()):
            if operation["key"] == "file":
                value = operation["value"]
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        return {"commitUrl": f"{home}/commit/1", "commitOid": "1", "pullRequestUrl": None}

    def _reply(self, tree: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
