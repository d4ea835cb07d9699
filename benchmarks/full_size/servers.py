"""Which servers of a pair are up, on which GPUs: started and ended by ``atts servers``."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from models import PAIRS, make_model

from atts.types import Author

FIRST_PORT = 21300
"""Below those that connections to servers are given."""
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 384, 512, 768, 1024)
"""For which steps of decoding are captured in advance; the others take the next larger."""
ARGUMENTS = [
    *("--load-format", "dummy"),
    *("--attention-backend", "triton"),
    *("--sampling-backend", "pytorch"),
    *("--grammar-backend", "none"),
    "--disable-piecewise-cuda-graph",
    # For mixtures it would be on by itself, and uses what not every host permits.
    "--enforce-disable-flashinfer-allreduce-fusion",
]
Number = Literal["bf16", "fp8"]
MEMORY = 0.88
"""Share that a server takes of what its GPUs have free when it starts; a draft that is beside the
target is started before it, and takes less.
"""


class StartError(Exception):
    """A server did not start."""


class Server(NamedTuple):
    """One server that is to be up."""

    author: Author
    model: str
    gpus: tuple[int, ...]
    """Over which the model is split."""
    memory: float
    beside: bool
    """Whether the other model is on the same GPUs; the draft is started first."""
    cache: Number
    weights: Number


class Placement(NamedTuple):
    """How the GPUs are given to the models."""

    pair: str
    gpus: int
    draft_gpus: int
    """0: the draft is on the target's GPUs, of which it has all."""
    draft_parallel: int
    target_parallel: int
    has_draft: bool
    """Otherwise all GPUs are the target's."""
    cache: Number
    weights: Number

    @property
    def shared(self) -> bool:
        """Whether both models are on the same GPUs."""
        return self.has_draft and self.draft_gpus == 0

    def gpus_of(self, author: Author) -> range:
        """The target's come first."""
        if not self.has_draft:
            return range(self.gpus if author == "target" else 0)
        first = self.gpus - self.draft_gpus
        if author == "target" or self.shared:
            return range(first)
        return range(first, self.gpus)

    def parallel_of(self, author: Author) -> int:
        """GPUs of one copy."""
        return self.draft_parallel if author == "draft" else self.target_parallel

    def servers(self) -> list[Server]:
        """Whole copies of both models; where they share GPUs, the draft's come first.

        Raises:
            SystemExit: the GPUs do not hold whole copies.
        """
        pair, found = PAIRS[self.pair], []
        models: dict[Author, str] = {"draft": pair.draft, "target": pair.target}
        for author, model in models.items():
            gpus, parallel = self.gpus_of(author), self.parallel_of(author)
            if len(gpus) % parallel:
                raise SystemExit(f"{len(gpus)} GPUs hold no whole copies of {parallel} each")
            memory = pair.draft_memory if author == "draft" and self.shared else MEMORY
            for first in range(0, len(gpus), parallel):
                some = tuple(gpus[first : first + parallel])
                how = (memory, self.shared, self.cache, self.weights)
                found.append(Server(author, model, some, *how))
        return found


class Fleet:
    """The servers that are up; what stays from one placement to the next is not started again."""

    def __init__(self, folder: Path, python: str, path: str | None, most: int, dry: bool) -> None:
        """``most``: requests in flight; ``dry``: stand-ins, which need no GPU."""
        self._folder = folder
        self._python = str(Path(__file__).with_name("stand_in.py")) if dry else python
        self._path = path
        self._most = most
        self._dry = dry
        self._up: dict[Server, int] = {}
        self._next_port = FIRST_PORT

    def change_to(self, wanted: Sequence[Server]) -> dict[Server, int]:
        """End what is not wanted, start what is missing; the ports.

        Raises:
            StartError: one did not start; those that were started with it are ended.
        """
        self._end([server for server in self._up if server not in wanted])
        missing = [server for server in wanted if server not in self._up]
        # Each takes its share of what is free when it starts.
        first = [server for server in missing if server.beside and server.author == "draft"]
        self._start(first)
        self._start([server for server in missing if server not in first])
        return {server: self._up[server] for server in wanted}

    def end(self) -> None:
        """End all."""
        self._end(list(self._up))

    def _start(self, servers: Sequence[Server]) -> None:
        if not servers:
            return
        began, starting = time.monotonic(), []
        for server in servers:
            # Each is known before it answers, so that it is ended whatever happens meanwhile.
            self._up[server] = self._next_port
            self._next_port += 10
            where = self._where(server)
            where.mkdir(parents=True, exist_ok=True)
            (where / "server.yaml").write_text(yaml.safe_dump(self._tree(server)))
            starting.append(subprocess.Popen(self._command("up", server)))
        if any(process.wait() for process in starting):
            self._end(servers)
            raise StartError(f"a server did not start; its log is under {self._folder}")
        names = ", ".join(f"{server.model} on {server.gpus}" for server in servers)
        print(f"{names}: answers after {time.monotonic() - began:.0f} s", flush=True)

    def _end(self, servers: Sequence[Server]) -> None:
        ending = [subprocess.Popen(self._command("down", server)) for server in servers]
        for process, server in zip(ending, servers, strict=True):
            process.wait()
            del self._up[server]

    def _where(self, server: Server) -> Path:
        return self._folder / f"server-{self._up[server]}"

    def _command(self, what: str, server: Server) -> list[str]:
        where = self._where(server)
        command = [sys.executable, "-m", "atts", "servers", what, "--dir", str(where)]
        if what == "up":
            command += ["-c", str(where / "server.yaml"), "--only", "target"]
        return command

    def _tree(self, server: Server) -> dict[str, Any]:
        """The configuration of one server, which stands for a target whatever it is."""
        arguments = [*ARGUMENTS, "--cuda-graph-bs", *self._batches()]
        if server.cache == "fp8":
            arguments += ["--kv-cache-dtype", "fp8_e4m3"]
        if server.weights == "fp8":
            arguments += ["--quantization", "fp8"]
        options = {
            "port": self._up[server],
            "gpus": [] if self._dry else list(server.gpus),
            "tensor_parallel": len(server.gpus),
            "executable": self._python,
            "memory_fraction": server.memory,
            "arguments": arguments,
            "environment": {"PYTHONPATH": self._path} if self._path else {},
        }
        model = str(make_model(server.model, self._folder))
        return {"target": {"engine": "sglang", "model": model, "server": options}}

    def _batches(self) -> list[str]:
        return [str(batch) for batch in BATCHES if batch <= max(self._most, BATCHES[0])]
