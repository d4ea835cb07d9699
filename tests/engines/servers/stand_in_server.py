"""Stands in for the Python that has vLLM: as ``python -m vllm...`` it serves, with a child.

What it does is told by arguments of its own: ``--die-after``, ``--silent``, ``--stubborn``,
``--childless``.
"""

# ruff: noqa: T201 - what it prints is its log
import argparse
import http.server
import json
import signal
import subprocess
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "tiny", "max_model_len": 256}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    if sys.argv[1] == "-c":  # asked whether the package is installed
        raise SystemExit
    parser = argparse.ArgumentParser()
    parser.add_argument("-m")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--die-after", type=float)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--childless", action="store_true")
    arguments, rest = parser.parse_known_args()
    print("loading weights", rest, flush=True)
    # As an engine process: it has no share in the leader's end.
    ignore = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    if not arguments.childless:
        child = subprocess.Popen([sys.executable, "-c", ignore])
        print("child", child.pid, flush=True)
    if arguments.die_after is not None:
        time.sleep(arguments.die_after)
        print("torch.OutOfMemoryError: \x1b[31mCUDA out of memory", flush=True)
        raise SystemExit(3)
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.silent:
        time.sleep(600)
    http.server.ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
