"""The whole job on real vLLM servers with the bundled pair, on a CPU: ``make test-vllm``.

    python tests/contract/real_vllm.py PYTHON

PYTHON is that of an environment with vLLM. Starts both servers with ``atts servers up``; asks
``atts doctor``; runs the contract suite against draft and target; then calibrates and runs
``atts run``, kills the target's server in the middle, starts it again, and demands that every
chain comes to its end; ends the servers and demands that nothing of them is left.
"""
# ruff: noqa: T201

import json
import os
import signal
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
        return {"engine": "vllm", "dtype": "float32", "timeout_seconds": 120, "server": server}

    return {
        "problems": {"count": 50},
        "samples": 4,
        "turns": BOTH_TURNS,
        "calibration": {"problems": {"count": 40}, "samples": 2},
        "draft": model(40100),
        "target": model(40101),
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
        print("nothing of the servers is left; all is well")


def processes_of(servers: Path, author: Author) -> list[psutil.Process]:
    record = read_record(servers, author)
    return processes(record) if record else []


def contract() -> None:
    """The one suite, on both servers."""
    urls = "bundled/draft=http://127.0.0.1:40100 bundled/target=http://127.0.0.1:40101"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/contract", "-k", "real"]
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
    if run.wait(600):
        raise SystemExit("atts run failed")
    summary = json.loads((out / "summary.json").read_text())
    print(f"after the kill: {summary['chains']} chains, {summary['failed']} failed")
    if (summary["chains"], summary["failed"]) != (200, 0):
        raise SystemExit("chains were lost")


if __name__ == "__main__":
    main()
