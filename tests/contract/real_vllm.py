"""The whole job on real vLLM servers with the bundled pair: ``make test-vllm``.

    python tests/contract/real_vllm.py PYTHON [--gpu] [--path PYTHONPATH]

PYTHON is that of an environment with vLLM, for a CPU or one GPU; PYTHONPATH is where it finds it,
if it has to be told. Starts both servers with ``atts servers up``; asks ``atts doctor``; runs the
contract suite against draft and target; then calibrates and runs ``atts run``, kills the target's
server in the middle, starts it again, and demands that every chain comes to its end; ends the
servers and demands that nothing of them is left. At last ``atts suite`` does all of that by itself
for two entries, and once more for nothing.

On two cores that do nothing else it takes about ten minutes.
"""
# ruff: noqa: T201

import argparse
import json
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import yaml
from servers_job import AUTHORS, Config, atts, configuration, whole_job

from atts.types import Author

ARGUMENTS = [
    *("--dtype", "float32"),
    "--enforce-eager",
    *("--max-num-batched-tokens", "16384"),
]
ON_CPU = [
    *("--block-size", "32"),
    # On a CPU, vLLM 0.32.0 dies of a prompt that is computed in parts for a request with a seed
    # ("CPU Generator does not use offset"), so all of a prompt must fit into one step.
    "--no-enable-chunked-prefill",
]
ON_GPU = [
    *("--attention-backend", "TRITON_ATTN"),  # the others have no float32
    # Two servers that measure at once what is free of one GPU are both wrong.
    *("--kv-cache-memory-bytes", "2G"),
]
PORTS: Mapping[Author, int] = {"draft": 40100, "target": 40101}


def model(author: Author, python: str, gpu: bool, path: str | None) -> Config:
    # Fresh memory is zero: rows of cached tokens, which hold nothing, stay JSON.
    environment = {"MALLOC_PERTURB_": "255"} | ({"PYTHONPATH": path} if path else {})
    if gpu:
        # Products of float32 numbers in TF32 would be exact to three digits only.
        environment |= {"TRITON_F32_DEFAULT": "ieee"}
    else:
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    server = {
        "port": PORTS[author],
        "executable": python,
        "context_length": 1024,
        "arguments": [*ARGUMENTS, *(ON_GPU if gpu else ON_CPU)],
        "environment": environment,
    } | ({"memory_fraction": 0.15} if gpu else {})
    return {"engine": "vllm", "dtype": "float32", "timeout_seconds": 600, "server": server}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("python")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--path")
    options = parser.parse_args()
    config = configuration(partial(model, **vars(options)))
    whole_job(
        "vllm",
        config,
        PORTS,
        "ATTS_VLLM_URLS",
        doctor_must_agree=True,
        then=partial(suite, config),
    )


def suite(config: Config, folder: Path) -> None:
    """Two entries: servers up, calibrate, run, servers down; the second time all is done."""
    file, out = folder / "suite.yaml", folder / "suite"
    pair = {author: config.pop(author) for author in AUTHORS}
    tree = {
        "base": config | {"samples": 2},
        "pairs": {"bundled": pair},
        "problems": {
            "arithmetic": {
                "problems": {"count": 10},
                "calibration": {"problems": {"count": 20}, "samples": 2},
            }
        },
        "methods": ["target-only", "atts"],
    }
    file.write_text(yaml.safe_dump(tree))
    began = time.monotonic()
    atts("suite", file, "--out", out, folder=folder)
    print(f"the suite took {time.monotonic() - began:.0f} s", flush=True)
    for name in ("target-only", "atts-marginal"):
        run = out / "bundled" / "arithmetic" / name
        summary = json.loads((run / "summary.json").read_text())
        if (summary["chains"], summary["failed"]) != (20, 0):
            raise SystemExit(f"{name}: {summary['chains']} chains, {summary['failed']} failed")
        (environment,) = json.loads((run / "environment.json").read_text())
        if set(environment["caches_emptied"].values()) != {True}:
            raise SystemExit(f"{name}: caches emptied: {environment['caches_emptied']}")
    for author, port in PORTS.items():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SystemExit(f"the suite left the {author}'s server")
    began = time.monotonic()
    atts("suite", file, "--out", out, folder=folder)
    print(f"and {time.monotonic() - began:.0f} s when all of it was done", flush=True)


if __name__ == "__main__":
    main()
