"""What ``real_vllm.py`` and ``real_sglang.py`` both do: the whole job on real servers."""
# ruff: noqa: T201

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from atts.engines.servers.processes import is_alive, processes, read_record
from atts.types import Author

ROOT = Path(__file__).parents[2]
AUTHORS: tuple[Author, ...] = ("draft", "target")
LONG = 1800
"""Seconds in which anything here ends, on a machine that does much else."""

Config = dict[str, Any]


def configuration(model: Callable[[Author], Config]) -> Config:
    """That of the run, with what ``model`` gives for each model."""
    return {
        "problems": {"count": 50},
        "samples": 4,
        "turns": {"max_turns": 15, "draft_tokens": 24, "target_tokens": 24},
        "calibration": {"problems": {"count": 40}, "samples": 2},
        "draft": model("draft"),
        "target": model("target"),
        # A server takes a minute or two to come back.
        "limits": {"chains": 200, "attempts": 40, "backoff_seconds": 1.0},
    }


def whole_job(
    name: str,
    config: Config,
    ports: Mapping[Author, int],
    urls_variable: str,
    doctor_must_agree: bool,
    then: Callable[[Path], None] = lambda _: None,
) -> None:
    """Start both servers, ask ``atts doctor``, run the contract suite and a run, end the servers.

    Whatever fails, the logs of the servers are kept as ``NAME-AUTHOR.log`` here, and nothing of
    the servers is left.

    Args:
        name: of the servers' software.
        config: see ``configuration``.
        ports: where the servers answer.
        urls_variable: the environment variable by which the contract suite finds them.
        doctor_must_agree: whether a fault that ``atts doctor`` finds ends the job.
        then: what follows, in the folder of all this, once the servers are down.
    """
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        servers = folder / "servers"
        began = time.monotonic()
        started: list[psutil.Process] = []
        try:
            atts("servers", "up", "-c", file, "--dir", servers, folder=folder)
            print(f"both servers answer after {time.monotonic() - began:.0f} s", flush=True)
            started = [each for author in AUTHORS for each in processes_of(servers, author)]
            atts("servers", "status", "--dir", servers, folder=folder)
            atts("doctor", "-c", file, folder=folder, check=doctor_must_agree)
            passed = contract(ports, urls_variable)
            whole_run(file, servers, folder)
            started += processes_of(servers, "target")
        finally:
            for author in AUTHORS:
                log = servers / f"{author}.log"
                if log.exists():
                    shutil.copy(log, Path.cwd() / f"{name}-{author}.log")
            atts("servers", "down", "--dir", servers, folder=folder, check=False)
        left = [process.pid for process in started if is_alive(process)]
        if left:
            raise SystemExit(f"atts servers down left {left}")
        print("nothing of the servers is left", flush=True)
        then(folder)
        if not passed:  # said last, so that what follows is tried, too
            raise SystemExit("the contract suite failed")
        print("all is well")


def atts(*words: object, folder: Path, check: bool = True) -> None:
    print("+ atts", *words, flush=True)
    command = [sys.executable, "-m", "atts", *map(str, words)]
    subprocess.run(command, cwd=folder, check=check)


def processes_of(servers: Path, author: Author) -> list[psutil.Process]:
    record = read_record(servers, author)
    return processes(record) if record else []


def contract(ports: Mapping[Author, int], urls_variable: str) -> bool:
    """Whether the one suite passes on both servers."""
    urls = " ".join(f"bundled/{author}=http://127.0.0.1:{port}" for author, port in ports.items())
    limit = f"--timeout={LONG}"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/contract", "-k", "real", limit]
    environment = os.environ | {urls_variable: urls}
    return not subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


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
