"""Microseconds of a decision, with more and more scores seen, beside recounting with numpy.

Each control decides on the same new scores after it has seen N others in their group. Beside it
stands what a plain implementation does: count all of the scores seen, with numpy. Times are those
of the processor, so that other processes disturb little. Rounds alternate between the ways; the
table shows medians, and the ratio within each round.

    python benchmarks/control.py [--seen 1000 --seen 1000000] [--rounds 5] [--json]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from atts.config import AdaptiveOptions
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.online import OnlineControl
from atts.conformal.pvalues import smoothed_rank
from atts.conformal.split import SplitControl
from atts.types import Decision

DECISIONS = 2000
RECOUNTS = 50
"""A recount takes so long that a few are enough."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seen", type=int, action="append", help="scores seen before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    figures = {
        seen: measure(seen, arguments.rounds)
        for seen in arguments.seen or (1_000, 100_000, 1_000_000)
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


def measure(seen: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of a decision by each way, one figure a round."""
    rng = np.random.default_rng(0)
    scores = rng.gamma(2.0, 0.3, size=seen)
    controls: dict[str, Control] = {
        "split": SplitControl(
            Calibration(
                version=2,
                fingerprint={},
                coverage="marginal",
                scores={"a": tuple((score,) for score in scores.tolist())},
            ),
            0.4,
        ),
        "online": OnlineControl(0.4, "marginal"),
        "adaptive": AdaptiveControl(OnlineControl(0.4, "marginal"), 0.4, AdaptiveOptions()),
    }
    for score in scores.tolist():
        decision = recorded(score)
        for control in controls.values():
            control.restore("a", 0, decision)
    figures: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        new, draws = rng.gamma(2.0, 0.3, size=DECISIONS).tolist(), rng.random(DECISIONS).tolist()
        ways: dict[str, Callable[[list[float], list[float]], int]] = {
            name: partial(decide, control) for name, control in controls.items()
        }
        ways["numpy recount"] = partial(recount, scores)
        for name, work in ways.items():
            started = time.process_time()
            decisions = work(new, draws)
            microseconds = 1e6 * (time.process_time() - started) / decisions
            if round_number:  # the first round warms up
                figures.setdefault(name, []).append(microseconds)
    return figures


def recorded(score: float) -> Decision:
    return Decision.model_construct(score=score, p_value=0.5, take_over=False, threshold=0.4)


def decide(control: Control, scores: list[float], draws: list[float]) -> int:
    for score, u in zip(scores, draws, strict=True):
        control.decide("a", 0, score, u)
    return len(scores)


def recount(seen: NDArray[np.float64], scores: list[float], draws: list[float]) -> int:
    for score, u in zip(scores[:RECOUNTS], draws, strict=False):
        above, equal = int((seen > score).sum()), int((seen == score).sum())
        smoothed_rank(above, equal, len(seen), u)
    return RECOUNTS


def show(figures: dict[int, dict[str, list[float]]]) -> None:
    table = Table("scores seen", "way", "us a decision", "min", "max", "x numpy recount")
    for seen, ways in figures.items():
        for name, rounds in ways.items():
            ratios = [
                ours / theirs for ours, theirs in zip(rounds, ways["numpy recount"], strict=True)
            ]
            table.add_row(
                f"{seen:,}",
                name,
                f"{statistics.median(rounds):,.1f}",
                f"{min(rounds):,.1f}",
                f"{max(rounds):,.1f}",
                f"{statistics.median(ratios):.4f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
