"""How often the interval that a split calibration promises covers the rate that it realises.

    python benchmarks/promise.py [--calibrations 300] [RECORDING...]

On made data: normal scores that correlate within problems and rise with the turn, longer chains for
harder problems. Each calibration is asked for the rate of all problems (4,000 of them) and for that
of 50 others. On recordings: a random half of the problems calibrates for the other half.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from atts.analysis.recording import load_recording
from atts.analysis.summary import promised_rate
from atts.config import TakeOverOptions
from atts.conformal.calibration import Calibration, ProblemScores
from atts.conformal.pvalues import TurnGroups
from atts.grading.intervals import Interval

Problems = Mapping[str, ProblemScores]
ByTurn = dict[int, NDArray[np.float64]]
RATES = (0.2, 0.4, 0.7)
TURNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path, nargs="*", metavar="RECORDING")
    parser.add_argument("--calibrations", type=int, default=300, help="of each setting")
    arguments = parser.parse_args()
    console = Console()
    console.print(on_made_data(arguments.calibrations))
    if arguments.recordings:
        console.print(on_recordings(arguments.recordings, arguments.calibrations))


def on_made_data(count: int) -> Table:
    rng = np.random.default_rng(1)
    table = Table("rho", "problems", "rate", "covers all", "covers 50 others", "mean width")
    for rho in (0.2, 0.5, 0.8):
        everything = by_turn(made(rng, 4000, 4, rho))
        for problems in (10, 30, 50, 100):
            for rate in RATES:
                covered, width = np.zeros(2), 0.0
                for _ in range(count):
                    one = calibration(made(rng, problems, 4, rho))
                    of_all, of_some = promised(one, rate), promised(one, rate, 50)
                    some = by_turn(made(rng, 50, 16, rho))
                    covered += [
                        of_all.low <= realised(one, everything, rate, rng) <= of_all.high,
                        of_some.low <= realised(one, some, rate, rng) <= of_some.high,
                    ]
                    width += (of_all.high - of_all.low) / count
                shares = [f"{share:.3f}" for share in covered / count]
                table.add_row(f"{rho}", str(problems), f"{rate}", *shares, f"{width:.3f}")
    return table


def on_recordings(paths: list[Path], count: int) -> Table:
    rng = np.random.default_rng(0)
    table = Table("recording", "rate", "covers the other half", "off by, mean", "interval, mean")
    for path in paths:
        scores = recorded(path)
        names = list(scores)
        for rate in RATES:
            covered, off, ends = 0, [], []
            for _ in range(count):
                order = rng.permutation(len(names))
                halves = [
                    {names[n]: scores[names[n]] for n in half} for half in np.array_split(order, 2)
                ]
                one = calibration(halves[0])
                interval = promised(one, rate, len(halves[1]))
                found = realised(one, by_turn(halves[1]), rate, rng)
                covered += interval.low <= found <= interval.high
                off.append(abs(found - rate))
                ends.append((interval.low, interval.high))
            low, high = np.mean(ends, axis=0)
            share = f"{covered / count:.3f}"
            table.add_row(
                path.name, f"{rate}", share, f"{np.mean(off):.3f}", f"{low:.3f}-{high:.3f}"
            )
    return table


def promised(one: Calibration, rate: float, problems: int | None = None) -> Interval:
    interval = promised_rate(one, TakeOverOptions(rate=rate), problems)
    if interval is None:
        raise ValueError("a conditional calibration promises nothing")
    return interval


def made(rng: np.random.Generator, problems: int, chains: int, rho: float) -> Problems:
    def chain(hard: float) -> tuple[float, ...]:
        turns = min(1 + int(rng.poisson(np.exp(0.5 + 0.5 * hard))), TURNS)
        own = rng.normal(size=turns)
        return tuple((rho**0.5 * hard + (1 - rho) ** 0.5 * own + 0.3 * np.arange(turns)).tolist())

    return {
        f"p{number}": tuple(chain(hard) for _ in range(chains))
        for number, hard in enumerate(rng.normal(size=problems).tolist())
    }


def recorded(path: Path) -> Problems:
    scores: dict[str, list[tuple[float | None, ...]]] = defaultdict(list)
    for chain in load_recording(path).chains:
        if chain.steps:
            at = {step.turn: step.score for step in chain.steps}
            scores[chain.problem_id].append(tuple(at.get(t) for t in range(max(at) + 1)))
    return {name: tuple(chains) for name, chains in scores.items()}


def calibration(scores: Problems) -> Calibration:
    return Calibration.model_construct(
        version=2, fingerprint={}, coverage="marginal", scores=dict(scores)
    )


def by_turn(scores: Problems) -> ByTurn:
    turns = calibration(scores).by_turn()
    return {turn: np.array(found) for turn, found in enumerate(turns)}


def realised(one: Calibration, scores: ByTurn, rate: float, rng: np.random.Generator) -> float:
    """The rate of split control, as ``SplitControl`` decides, all scores of a turn at once."""
    turns = one.by_turn()
    groups = TurnGroups([len(found) for found in turns])
    members: dict[int, list[float]] = defaultdict(list)
    for turn, found in enumerate(turns):
        members[groups.of(turn)].extend(found)
    ordered = {first: np.sort(found) for first, found in members.items()}
    taken = count = 0
    for turn, new in scores.items():
        group = ordered[groups.of(turn)]
        below, not_above = (np.searchsorted(group, new, side=side) for side in ("left", "right"))
        u = rng.random(len(new))
        p = (len(group) - not_above + u * (1 + not_above - below)) / (len(group) + 1)
        taken += int((p <= rate).sum())
        count += len(new)
    return taken / count


if __name__ == "__main__":
    main()
