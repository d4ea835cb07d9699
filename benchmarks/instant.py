"""A server in a process of its own that answers as SGLang does, at once: for benchmarks."""

import asyncio
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import orjson

CONTEXT_LENGTH = 1_000_000


class _Replies:
    """Pieces of a given text, and log-probabilities that follow from the ids."""

    def __init__(self, text: Sequence[int]) -> None:
        self._text = list(text)
        self._logprobs = (-np.random.default_rng(0).gamma(2.0, 0.3, 100_000)).tolist()

    def to(self, path: bytes, body: bytes) -> bytes | None:
        if path == b"/generate":
            return orjson.dumps(self._generated(orjson.loads(body)))
        if path == b"/v1/models":
            return orjson.dumps({"data": [{"id": "m", "max_model_len": CONTEXT_LENGTH}]})
        return None

    def _generated(self, request: dict[str, Any]) -> dict[str, Any]:
        ids, sampling = request["input_ids"], request["sampling_params"]
        count = sampling["max_new_tokens"]
        meta: dict[str, Any] = {
            "id": request["rid"],
            "finish_reason": {"type": "length", "length": count},
            "prompt_tokens": len(ids),
            "completion_tokens": count,
            "cached_tokens": len(ids) - 1,
        }
        if not request.get("return_logprob"):
            at = sampling["sampling_seed"] % (len(self._text) - count)
            return {"text": "", "output_ids": self._text[at : at + count], "meta_info": meta}
        asked = ids[request["logprob_start_len"] :]
        at = hash((len(ids), ids[-1], ids[-2])) % (len(self._logprobs) - len(asked))
        entries = [
            [logprob, token_id, None]
            for logprob, token_id in zip(self._logprobs[at:], asked, strict=False)
        ]
        entries[0][0] = None
        return {
            "text": "",
            "output_ids": [0],
            "meta_info": meta | {"input_token_logprobs": entries},
        }


class _Connection(asyncio.Protocol):
    """Reads requests of a known length and writes the replies; nothing else."""

    def __init__(self, replies: _Replies) -> None:
        self._replies = replies
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:head_end])
            _, has_body, after = head.lower().partition(b"content-length:")
            length = int(after.partition(b"\r\n")[0]) if has_body else 0
            end = head_end + 4 + length
            if len(self._received) < end:
                return
            body = bytes(self._received[head_end + 4 : end])
            del self._received[:end]
            reply = self._replies.to(head.split(b" ", 2)[1], body)
            status = b"404 Not Found" if reply is None else b"200 OK"
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(reply or b""), reply or b"")
            )


def _serve(text: Sequence[int], ready: Connection) -> None:
    async def until_the_pipe_ends() -> None:
        loop, replies, over = asyncio.get_running_loop(), _Replies(text), asyncio.Event()
        server = await loop.create_server(
            lambda: _Connection(replies), "127.0.0.1", 0, backlog=16_384
        )
        ready.send(server.sockets[0].getsockname()[1])
        loop.add_reader(ready.fileno(), over.set)  # its other end goes with the process there
        await over.wait()
        server.close()

    asyncio.run(until_the_pipe_ends())


@contextmanager
def instant_server(text: Sequence[int]) -> Iterator[str]:
    """The URL of a server that writes pieces of ``text``, which ends with the block."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(list(text), there), daemon=True
    )
    process.start()
    there.close()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        here.close()
        process.join()
