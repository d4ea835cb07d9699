"""The whole job on real SGLang servers with the bundled pair, on one GPU: ``make test-sglang``.

    python tests/contract/real_sglang.py PYTHON [PYTHONPATH]

PYTHON is that of an environment with SGLang; PYTHONPATH, if given, is where it finds it. What is
done is what ``real_vllm.py`` does. The models are computed in float32, deterministically, so that
scores, seeds and texts can be compared with those of plain transformers.
"""
# ruff: noqa: T201

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml
from real_vllm import AUTHORS, BOTH_TURNS, ROOT, atts, processes_of, whole_run

PORTS = {"draft": 40200, "target": 40201}
ARGUMENTS = [
    *("--dtype", "float32"),
    "--enable-deterministic-inference",
    *("--attention-backend", "triton"),
    *("--sampling-backend", "pytorch"),
    *("--grammar-backend", "none"),
    "--disable-piecewise-cuda-graph",
    *("--cuda-graph-max-bs", "64"),
    *("--max-total-tokens", "200000"),
    "--enable-metrics",
]


def configuration(python: str, path: str | None) -> dict[str, Any]:
    # Products of float32 numbers in TF32 would be exact to three digits only.
    environment = {"TRITON_F32_DEFAULT": "ieee"} | ({"PYTHONPATH": path} if path else {})

    def model(author: str) -> dict[str, Any]:
        server = {
            "port": PORTS[author],
            "executable": python,
            "memory_fraction": 0.3,
            "arguments": ARGUMENTS,
            "environment": environment,
            "start_seconds": 300,
        }
        return {"engine": "sglang", "dtype": "float32", "timeout_seconds": 60, "server": server}

    return {
        "problems": {"count": 50},
        "samples": 4,
        "turns": BOTH_TURNS,
        "calibration": {"problems": {"count": 40}, "samples": 2},
        "draft": model("draft"),
        "target": model("target"),
        # A server takes a minute to come back.
        "limits": {"chains": 200, "attempts": 40, "backoff_seconds": 1.0},
    }


def main() -> None:
    python, path = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "sglang.yaml"
        config.write_text(yaml.safe_dump(configuration(python, path)))
        servers = folder / "servers"
        began = time.monotonic()
        started: list[int] = []
        try:
            atts("servers", "up", "-c", config, "--dir", servers, folder=folder)
            print(f"both servers answer after {time.monotonic() - began:.0f} s", flush=True)
            started = [p.pid for author in AUTHORS for p in processes_of(servers, author)]
            atts("servers", "status", "--dir", servers, folder=folder)
            atts("doctor", "-c", config, folder=folder, check=False)
            passed = contract()
            whole_run(config, servers, folder)
            started += [p.pid for p in processes_of(servers, "target")]
        finally:
            for author in AUTHORS:
                log = servers / f"{author}.log"
                if log.exists():
                    shutil.copy(log, Path.cwd() / f"sglang-{author}.log")
            atts("servers", "down", "--dir", servers, folder=folder, check=False)
        left = [pid for pid in started if psutil.pid_exists(pid)]
        if left:
            raise SystemExit(f"atts servers down left {left}")
        print("nothing of the servers is left")
        if not passed:
            raise SystemExit("the contract suite failed")
        print("all is well")


def contract() -> bool:
    """The one suite, on both servers."""
    urls = " ".join(f"bundled/{author}=http://127.0.0.1:{PORTS[author]}" for author in AUTHORS)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/contract", "-k", "real"]
    environment = os.environ | {"ATTS_SGLANG_URLS": urls}
    return not subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    main()
