"""The whole job on real SGLang servers with the bundled pair, on one GPU: ``make test-sglang``.

    python tests/contract/real_sglang.py PYTHON [PYTHONPATH]

PYTHON is that of an environment with SGLang; PYTHONPATH, if given, is where it finds it. What is
done is what ``real_vllm.py`` does, but for the suite. The models are computed in float32,
deterministically, so that scores, seeds and texts can be compared with those of plain transformers.
"""

import sys
from collections.abc import Mapping

from servers_job import Config, configuration, whole_job

from atts.types import Author

PORTS: Mapping[Author, int] = {"draft": 40200, "target": 40201}
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


def model(author: Author, python: str, path: str | None) -> Config:
    # Products of float32 numbers in TF32 would be exact to three digits only.
    environment = {"TRITON_F32_DEFAULT": "ieee"} | ({"PYTHONPATH": path} if path else {})
    server = {
        "port": PORTS[author],
        "executable": python,
        "memory_fraction": 0.3,
        "arguments": ARGUMENTS,
        "environment": environment,
        "start_seconds": 300,
    }
    return {"engine": "sglang", "dtype": "float32", "timeout_seconds": 60, "server": server}


def main() -> None:
    python, path = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    config = configuration(lambda author: model(author, python, path))
    whole_job("sglang", config, PORTS, "ATTS_SGLANG_URLS", doctor_must_agree=False)


if __name__ == "__main__":
    main()
