"""The whole job on real vLLM servers with the bundled pair, on a CPU: ``make test-vllm``.

    python tests/contract/real_vllm.py PYTHON

PYTHON is that of an environment with vLLM. Starts both servers with ``atts servers up``; asks
``atts doctor``; runs the contract suite against draft and target; then calibrates and runs
``atts run``, kills the target's server in the middle, starts it again, and demands that every
chain comes to its end; ends the servers and demands that nothing of them is left. At last
``atts suite`` does all of that by itself for two entries, and once more for nothing.

On two cores that do nothing else it takes about ten minutes.
"""
# ruff: noqa: T201

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from atts.servers.processes import processes, read_record
from atts.types import Author

ROOT = Path(__file__).parents[2]
AUTHORS: tuple[Author, ...] = ("draft", "target")
ARGUMENTS = [
    *("--dtype", "float32"),
    "--enforce-eager",
    *("--block-size", "32"),
    # On a CPU, vLLM 0.32.0 dies of a prompt that is computed in parts for a request with a seed
    # ("CPU Generator does not use offset"), so all of a prompt must fit into one step.
    "--no-enable-chunked-prefill",
    *("--max-num-batched-tokens", "16384"),
]
PORTS = {"draft": 40100, "target": 40101}
LONG = 1800
"""Seconds in which anything here ends, on a machine that does much else."""
BOTH_TURNS = {"max_turns": 15, "draft_tokens": 24, "target_tokens": 24}


def configuration(python: str) -> dict[str, Any]:
    def model(port: int) -> dict[str, Any]:
        server = {
            "port": port,
            "executable": python,
            "context_length": 1024,
            "arguments": ARGUMENTS,
            "environment": {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                # Fresh memory is zero: rows of cached tokens, which hold nothing, stay JSON.
                "MALLOC_PERTURB_": "255",
            },
        }
        return {"engine": "vllm", "dtype": "float32", "timeout_seconds": 600, "server": server}

    return {
        "problems": {"count": 50},
        "samples": 4,
        "turns": BOTH_TURNS,
        "calibration": {"problems": {"count": 40}, "samples": 2},
        "draft": model(PORTS["draft"]),
        "target": model(PORTS["target"]),
        # A server takes a minute or two to come back.
        "limits": {"chains": 200, "attempts": 40, "backoff_seconds": 1.0},
    }


def atts(*words: object, folder: Path, check: bool = True) -> None:
    print("+ atts", *words, flush=True)
    command = [sys.executable, "-m", "atts", *map(str, words)]
    subprocess.run(command, cwd=folder, check=check)


def main() -> None:
    python = sys.argv[1]
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "vllm.yaml"
        config.write_text(yaml.safe_dump(configuration(python)))
        servers = folder / "servers"
        began = time.monotonic()
        atts("servers", "up", "-c", config, "--dir", servers, folder=folder)
        print(f"both servers answer after {time.monotonic() - began:.0f} s", flush=True)
        started = [p.pid for author in AUTHORS for p in processes_of(servers, author)]
        try:
            atts("servers", "status", "--dir", servers, folder=folder)
            atts("doctor", "-c", config, folder=folder)
            contract()
            whole_run(config, servers, folder)
            started += [p.pid for p in processes_of(servers, "target")]
        finally:
            for author in AUTHORS:
                (Path.cwd() / f"vllm-{author}.log").write_bytes(
                    (servers / f"{author}.log").read_bytes()
                )
            atts("servers", "down", "--dir", servers, folder=folder)
        left = [pid for pid in started if psutil.pid_exists(pid)]
        if left:
            raise SystemExit(f"atts servers down left {left}")
        print("nothing of the servers is left", flush=True)
        suite(configuration(python), folder)
        print("all is well")


def processes_of(servers: Path, author: Author) -> list[psutil.Process]:
    record = read_record(servers, author)
    return processes(record) if record else []


def contract() -> None:
    """The one suite, on both servers."""
    urls = " ".join(f"bundled/{name}=http://127.0.0.1:{port}" for name, port in PORTS.items())
    limit = f"--timeout={LONG}"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/contract", "-k", "real", limit]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"ATTS_VLLM_URLS": urls}, check=True)


def whole_run(config: Path, servers: Path, folder: Path) -> None:
    """Calibrate and run; the target's server is killed in the middle and started again."""
    made, out = folder / "calibration", folder / "run"
    atts("calibrate", "-c", config, "--out", made, folder=folder)
    decide = ["--set", f"take_over.calibration={made / 'calibration.json'}"]
    command = [sys.executable, "-m", "atts", "run", "-c", config, *decide, "--out", out]
    print("+ atts run, with the target's server killed in the middle", flush=True)
    run = subprocess.Popen(list(map(str, command)), cwd=folder)
    chains = out / "chains.jsonl"
    while not chains.exists() or chains.read_bytes().count(b"\n") < 20:
        if run.poll() is not None:
            raise SystemExit("the run ended before the server could be killed")
        time.sleep(0.05)
    killed = processes_of(servers, "target")
    for process in killed:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(killed, timeout=10)
    before = chains.read_bytes().count(b"\n")
    print(f"killed {len(killed)} processes after {before} of 200 chains", flush=True)
    atts("servers", "up", "-c", config, "--dir", servers, "--only", "target", folder=folder)
    if run.wait(LONG):
        raise SystemExit("atts run failed")
    summary = json.loads((out / "summary.json").read_text())
    print(f"after the kill: {summary['chains']} chains, {summary['failed']} failed")
    if (summary["chains"], summary["failed"]) != (200, 0):
        raise SystemExit("chains were lost")


def suite(config: dict[str, Any], folder: Path) -> None:
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
        summary = json.loads((out / "bundled" / "arithmetic" / name / "summary.json").read_text())
        if (summary["chains"], summary["failed"]) != (20, 0):
            raise SystemExit(f"{name}: {summary['chains']} chains, {summary['failed']} failed")
    for author, port in PORTS.items():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SystemExit(f"the suite left the {author}'s server")
    began = time.monotonic()
    atts("suite", file, "--out", out, folder=folder)
    print(f"and {time.monotonic() - began:.0f} s when all of it was done", flush=True)


if __name__ == "__main__":
    main()
