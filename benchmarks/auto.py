"""``method: auto`` beside the target alone and ATTS, on simulated servers, at many loads.

    python benchmarks/auto.py TRACES [--pairs NAME ...] [--in-flight 1 4 ...] [--waves 4]

Speedups are over the target alone on the same servers (``benchmarks/foretold.py`` has them), of so
many waves of recorded chains, to the end of the last; without advice, as advised, and where a
speedup is advised that may not be there; the last two also by whole problems, as a certificate
needs it. The worst of ``auto`` is printed at the end.
"""

import argparse
from functools import partial
from pathlib import Path

from foretold import PAIRS, on_servers

from atts.simulation.deployment import SimulatedMethod
from atts.simulation.simulate import check, simulate
from atts.simulation.workload import Workload, load_workload

LEVELS = [1, 4, 16, 64, 256, 1024]
LEAST = 16
RATES = (0.1, 0.4)
WRONG = 1.5
"""A speedup that is advised whatever it is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=[*PAIRS])
    parser.add_argument("--in-flight", type=int, nargs="+", default=LEVELS)
    parser.add_argument("--waves", type=int, default=4)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    options = parser.parse_args()
    workload = load_workload(options.traces)
    worst = [9.0] * 5
    print(
        "| pair | rate | in flight | atts, x | auto, x | as advised, x | wrongly advised, x "
        "| whole problems, as advised, x | wrongly, x |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.pairs:
        config, _ = on_servers(name)
        for n in options.in_flight:
            problems = max(LEAST, options.waves * n) // config.samples

            seconds = partial(wall, workload, name, n, problems)
            alone, tokens = seconds("target-only")
            for rate in options.rates:
                at = f"take_over.rate={rate}"
                atts = alone / seconds(f"atts:{at}")[0]
                told = f"auto:{at},auto.alone={{{n}: {tokens / alone:.1f}}},auto.advised={{{n}: "
                advised = [f"{told}{atts:.3f}}}", f"{told}{WRONG}}}"]
                whole = [f"{method},auto.whole_problems=true" for method in advised]
                found = [alone / seconds(method)[0] for method in (f"auto:{at}", *advised, *whole)]
                worst = [min(pair) for pair in zip(worst, found, strict=True)]
                cells = " | ".join(f"{each:.2f}" for each in (atts, *found))
                print(f"| {name} | {rate} | {n} | {cells} |", flush=True)
    print("\nThe worst of auto: " + ", ".join(f"{each:.2f}" for each in worst))


def wall(workload: Workload, name: str, n: int, problems: int, method: str) -> tuple[float, int]:
    """Seconds and tokens of a run; the target alone has its own GPU, as beside the draft."""
    config, hardware = on_servers(name)
    outcome = simulate(SimulatedMethod.parse(method), config, workload, hardware, n, problems)
    check(outcome)
    return outcome.wall_seconds, outcome.kept_tokens


if __name__ == "__main__":
    main()
