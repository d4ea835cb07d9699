"""What ``atts advise`` predicts of a pair beside what whole runs then take.

    python benchmarks/real/advise.py -c PAIR.yaml --out DIR [--in-flight 1 4 16 64 256]
        [--seconds 2400] [--way METHOD:KEY=VALUE,...] [--rival SPECULATIVE.yaml] [--auto]

The servers are up, and nobody else uses them; models in this process go as well. It advises (a
pilot on calibration problems, and a probe), and then measures, on the problems of the
configuration and with every number in flight: target-only; the way that is advised, or else the
fastest other one, or ``--way``; target-only of a second configuration, whose servers are up too
and decode speculatively, say; and ``auto``. Each has the same chains, as many as the time lets.
Every row is appended to DIR/rows.jsonl at once; the same command goes on with what is missing.

    python benchmarks/real/advise.py --out DIR --show      what is there (benchmarks/real/advised)

*Told the chains* is what the model says of the chains that were measured: what is off there are
the prices and the model, and not that other chains than the pilot's are longer or shorter.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import atts
from atts.advice.advice import ADVICE, Advice, Prediction
from atts.advice.advising import advise_on_runs, foretold, read_advice
from atts.advice.model import Circle, Course, Work, course_of, curve, pace
from atts.advice.pilot import DRAFT, TARGET
from atts.advice.prices import Prices
from atts.analysis.comparison import NamedRun
from atts.analysis.report import read_report
from atts.analysis.tokens import count_tokens
from atts.config import (
    IN_THIS_PROCESS,
    Config,
    ModelOptions,
    apply_setting,
    load_config,
    method_and_settings,
    parse_config,
)
from atts.engines.base import GenerateRequest, Sampling
from atts.engines.loading import remote_engines
from atts.grading.grader import Grader, VerdictCache
from atts.store.run_directory import RecordedRun

LEVELS = (1, 4, 16, 64, 256)
RIVAL = "rival"
WAVES, LEAST = 4, 32
"""Chains are so many times those in flight, and at least so many, if the time lets."""
WARMING = 48
"""Tokens that a rival's servers write for each number in flight before they are measured."""
SHARE = 0.75
"""Of the time that is left, what is planned for: predictions may be wrong."""


class Contender(NamedTuple):
    label: str
    way: str
    """As ``atts compare`` takes it."""
    config: Path

    @property
    def is_priced(self) -> bool:
        """Whether it runs on the servers that were probed."""
        return self.label != RIVAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", type=Path)
    parser.add_argument("--show", action="store_true", help="only show what was measured")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[*LEVELS])
    parser.add_argument("--chains", type=int, nargs="+", help="of each; default: as time lets")
    parser.add_argument("--seconds", type=float, default=2_400.0, help="for all of it")
    parser.add_argument("--probe-seconds", type=float, default=90.0)
    parser.add_argument("--problems", type=int, default=16, help="of the pilot")
    parser.add_argument("--samples", type=int, default=4, help="of the pilot, and of each problem")
    parser.add_argument("--loss", type=float, default=0.02)
    parser.add_argument("--pilot-way", action="append", default=[], help="a way to try")
    parser.add_argument("--way", help="to measure, in place of the advised one")
    parser.add_argument("--rival", type=Path, help="a configuration whose target is measured, too")
    parser.add_argument("--auto", action="store_true", help="measure method auto, too")
    options = parser.parse_args()
    if options.chains and len(options.chains) != len(options.in_flight):
        parser.error("--chains takes one number for each of --in-flight")
    if options.show:
        show(read_rows(options.out / "rows.jsonl"))
    elif options.config:
        asyncio.run(measure(options))
    else:
        parser.error("-c PAIR.yaml, or --show")


async def measure(options: argparse.Namespace) -> None:
    began = time.monotonic()
    place, rows = options.out / "advise", options.out / "rows.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    if not (place / ADVICE).is_file():
        tried = [*options.pilot_way]
        if options.way and options.way not in tried:
            tried.append(options.way)
        await atts.advise(
            options.config,
            settings=options.settings,
            ways=tried,
            directory=place,
            problems=options.problems,
            samples=options.samples,
            in_flight=options.in_flight,
            loss=options.loss,
            seconds=options.probe_seconds,
        )
        append(rows, {"way": "advise", "wall_seconds": time.monotonic() - began})
    advice = read_advice(place / ADVICE)
    print(advice.why, flush=True)
    way = options.way or chosen(advice)
    contenders = [Contender(TARGET, TARGET, options.config), Contender(way, way, options.config)]
    if options.rival:  # the pilot and the probe have warmed the others
        try:
            rival = load_config(options.rival, [*options.settings]).target
            if rival.engine not in IN_THIS_PROCESS:
                await written_by(rival, options)
            contenders.append(Contender(RIVAL, TARGET, options.rival))
        except atts.AttsError as error:
            append(rows, {"way": RIVAL, "failure": str(error)})
            print(f"without the rival: {error}", flush=True)
    if options.auto:
        contenders.append(Contender("auto", automatic(advice, way), options.config))
    done = {(row["way"], row.get("in_flight")) for row in read_rows(rows) if "failure" not in row}
    todo = [
        (level, each)
        for level in sorted(options.in_flight, reverse=True)  # the quickest first
        for each in contenders
        if (each.label, level) not in done
    ]
    counts: dict[int, int] = dict(zip(options.in_flight, options.chains or (), strict=False))
    for number, (level, each) in enumerate(todo):
        left = options.seconds - (time.monotonic() - began)
        if left <= 0.0:
            print("the time is up", flush=True)
            break
        if level not in counts:  # the same chains for all contenders
            counts[level] = affordable(advice, way, level, left * SHARE / (len(todo) - number))
        config = configured(each, options, level, counts[level])
        row = await run(config, each, level, options.out, left, advice.prices)
        foretold = predicted(advice, place, each, level, config)
        if foretold:
            row["predicted_seconds"] = foretold.seconds.estimate
            row["predicted_low"] = foretold.seconds.low
            row["predicted_high"] = foretold.seconds.high
            row["predicted_tokens_per_second"] = foretold.tokens_per_second.estimate
            row["predicted_x"] = foretold.speedup.estimate
            row["limited_by"] = foretold.limited_by
            if row["finished"]:
                row["error"] = foretold.seconds.estimate / row["wall_seconds"] - 1.0
        append(rows, row)
        print(json.dumps(row), flush=True)
    show(read_rows(rows))


async def written_by(model: ModelOptions, options: argparse.Namespace) -> None:
    """Have a rival's servers compile what they need to write; it is never asked for scores.

    Raises:
        EngineError: a request failed.
    """
    for engine in remote_engines(model):
        try:
            await engine.connect()
            for level in options.in_flight:
                beginnings = [[seed + 10 + word for word in range(64)] for seed in range(level)]
                requests = [
                    GenerateRequest(ids, Sampling(WARMING, 0.8, 1.0, seed=ids[0]))
                    for ids in beginnings
                ]
                await asyncio.gather(*map(engine.generate, requests))
        finally:
            await engine.aclose()


def chosen(advice: Advice) -> str:
    """The way that is advised, or the fastest that takes over at all."""
    if advice.choice:
        return advice.choice.name
    others = [way for way in advice.ways[1:] if way.name != DRAFT]
    able = [way for way in others if way.loss and way.loss.estimate >= -advice.bound] or others
    return min(able, key=lambda way: min(one.seconds.estimate for one in way.predictions)).name


def automatic(advice: Advice, way: str) -> str:
    """``auto`` with a way's settings, told what is predicted of it."""
    settings = method_and_settings(way)[1]
    told = foretold(advice, next(each for each in advice.ways if each.name == way))
    settings += [f"auto.{key}={json.dumps(value)}".replace('"', "") for key, value in told.items()]
    return f"auto:{','.join(settings)}"


def affordable(advice: Advice, way: str, level: int, seconds: float) -> int:
    """Chains that a run may have, by what the slower way is predicted to take."""
    per_chain = 0.0
    for each in advice.ways:
        if each.name in (TARGET, way):
            at = each.at(level) or each.predictions[-1]
            per_chain = max(per_chain, at.seconds.estimate / at.chains)
    wanted = max(WAVES * level, LEAST)
    return max(level, min(wanted, int(seconds / max(per_chain, 1e-9))))


def configured(each: Contender, options: argparse.Namespace, level: int, chains: int) -> Config:
    """With so many chains in flight, no fewer and no more, and on empty caches."""
    base = load_config(each.config, [*options.settings])
    tree = base.model_dump()
    method, settings = method_and_settings(each.way)
    available = base.problems.count or 100
    problems = max(1, min(available, chains))  # those of one problem are much alike
    tree["problems"]["count"] = problems
    tree["samples"] = max(1, math.ceil(chains / problems))
    tree["limits"] |= dict.fromkeys(("chains", "chains_min"), level)
    tree["limits"] |= dict.fromkeys(("draft_requests", "target_requests"), max(level, 16))
    tree["limits"]["empty_caches"] = True
    for setting in (f"method={method}", *settings):
        apply_setting(tree, setting)
    return parse_config(tree, each.label)


async def run(
    config: Config,
    each: Contender,
    level: int,
    folder: Path,
    left: float,
    prices: Prices | None,
) -> dict[str, Any]:
    """One run, stopped when the time is up; what it took."""
    place = folder / f"{level}-{each.label.replace('/', '_')[:100]}"
    began = time.monotonic()
    row: dict[str, Any] = {"way": each.label, "in_flight": level, "finished": True}
    try:
        async with atts.open_models(config) as models:
            row["opening_seconds"] = time.monotonic() - began
            await asyncio.wait_for(atts.run(config, models, place), left)
    except TimeoutError:
        row["finished"] = False
    except atts.AttsError as error:  # the others are measured all the same
        return row | {"finished": False, "failure": str(error)}
    with Grader(cache=VerdictCache()) as grader:
        try:
            report = read_report(each.label, place, grader)
        except atts.AttsError as error:
            return row | {"failure": str(error), "finished": False}
    summary, chains = report.summary, report.run.chains
    kept = sum(chain.kept("draft") + chain.kept("target") for chain in chains)
    tokens = summary.tokens
    row |= {
        "chains": summary.chains,
        "failed": summary.failed,
        "wall_seconds": summary.wall_seconds,
        "kept_per_second": kept / summary.wall_seconds if summary.wall_seconds else 0.0,
        "target_written": tokens.target_written / summary.chains,
        "target_scored": tokens.target_scored / summary.chains,
        "draft_written": tokens.draft_written / summary.chains,
        "chain_seconds": sum(chain.seconds for chain in chains) / summary.chains,
    }
    if summary.accuracy:
        row["accuracy"] = summary.accuracy.model_dump()
    own = each.is_priced and prices and modelled(report.run, prices, level)
    if own:
        row |= {"modelled_seconds": own.seconds, "modelled_chain_seconds": own.chain_seconds}
    decided = sum(1 for chain in chains for _ in chain.decisions)
    row["decisions"] = decided / summary.chains
    row["take_overs"] = tokens.target_requests / summary.chains
    row["by_target_alone"] = sum(not any(chain.decisions) for chain in chains) / summary.chains
    for author, told in report.run.speculation.items():
        row[f"{author}_tokens_a_pass"] = told.tokens_a_pass
    return row


def predicted(
    advice: Advice, place: Path, each: Contender, level: int, config: Config
) -> Prediction | None:
    """Of as many chains as were measured."""
    if each.label not in {way.name for way in advice.ways}:
        return None
    runs = [
        NamedRun(way.name, str(path), atts.read_run(path))
        for way in advice.ways
        if (path := directory_of(place, way.name))
    ]
    chains = (config.problems.count or 1) * config.samples
    with Grader(cache=VerdictCache()) as grader:
        again = advise_on_runs(
            runs, grader, advice.bound, before=advice, levels=(level,), chains=chains
        )
    return next((way.predictions[0] for way in again.ways if way.name == each.label), None)


def directory_of(place: Path, way: str) -> Path | None:
    """Where the pilot's run of a way is."""
    method, settings = method_and_settings(way)
    for path in place.glob(f"{method}-*"):
        if (path / "summary.json").is_file():
            config = atts.read_run(path).config
            tree = config.model_dump()
            for setting in settings:
                apply_setting(tree, setting)
            if parse_config(tree, way).digest() == config.digest():
                return path
    return None


def modelled(run: RecordedRun, prices: Prices, in_flight: int) -> Course | None:
    """What the model says of chains that are known; None where no model can, as some chains are
    the target's alone, and some not.
    """
    chains = sorted(run.chains, key=lambda chain: chain.started)
    circle = Circle.of(count_tokens(run.config, chains), run.config.overlaps)
    if circle and not all(any(chain.decisions) for chain in chains):
        return None
    return course_of([Work.of(chain) for chain in chains], in_flight, curve(pace(prices, circle)))


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def show(rows: Sequence[dict[str, Any]]) -> None:
    alone = {row["in_flight"]: row for row in rows if row["way"] == TARGET}
    print(
        "| in flight | way | chains | last chain, s | predicted | error | told the chains | x | "
        "tokens/s | error | right | a chain, s | told the chains |"
    )
    print("|" + 13 * "---|")
    for row in sorted(rows, key=lambda row: row.get("in_flight", 0)):
        if "kept_per_second" not in row:
            continue
        first = alone.get(row["in_flight"], {})
        same = first.get("chains") == row["chains"] and first.get("finished") and row["finished"]
        cells = [
            f"{row['in_flight']}",
            row["way"],
            f"{row['chains']}" + ("" if row["finished"] else " (stopped)"),
            f"{row['wall_seconds']:.1f}",
            foretold_seconds(row),
            f"{100 * row['error']:+.0f} %" if "error" in row else "",
            off(row, "modelled_seconds", "wall_seconds"),
            f"{first['wall_seconds'] / row['wall_seconds']:.2f}" if same else "",
            f"{row['kept_per_second']:,.0f}",
            off(row, "predicted_tokens_per_second", "kept_per_second"),
            f"{100 * row['accuracy']['estimate']:.1f}" if "accuracy" in row else "",
            f"{row['chain_seconds']:.2f}",
            off(row, "modelled_chain_seconds", "chain_seconds"),
        ]
        print(f"| {' | '.join(cells)} |")


def off(row: dict[str, Any], said: str, was: str) -> str:
    """By how much the model is off."""
    return f"{100 * row[said] / row[was] - 100:+.0f} %" if said in row else ""


def foretold_seconds(row: dict[str, Any]) -> str:
    """The prediction with its interval."""
    if "predicted_seconds" not in row:
        return ""
    said = f"{row['predicted_seconds']:.1f}"
    if "predicted_low" in row:
        said += f" ({row['predicted_low']:.1f}-{row['predicted_high']:.1f})"
    return said


if __name__ == "__main__":
    main()
