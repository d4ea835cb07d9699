"""``atts replay``: what any control would have decided on recorded scores."""

import json
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated

import typer

from atts.cli.commands import new_app
from atts.cli.terminal import EXIT_CODES, out, say

if TYPE_CHECKING:
    from rich.table import Table

    from atts.analysis.replay import Replayed
    from atts.analysis.separation import Separation

CONTENDERS = (
    "split,by_turn=false",
    "split",
    "split,coverage=conditional",
    "online",
    "online,coverage=conditional",
    "adaptive",
)


EXAMPLES = f"""Examples:

    atts replay runs/demo/001/atts-marginal
    atts replay trace.jsonl.gz --rate 0.2 --rate 0.4 --control online --control adaptive
    atts replay trace.jsonl.gz --control split,by_turn=false,calibration=ppls.npy --plot rates.png

Only scores are replayed: had a control taken over elsewhere, the text and so the later scores
would have been others. docs/statistics.md says what each control guarantees.

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def replay(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RECORDING",
            help="A run directory, or a trace (.jsonl or .jsonl.gz, a line a chain).",
        ),
    ],
    controls: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            metavar="SPEC",
            help="A control: split, online or adaptive, then keys of take_over after commas, such "
            "as online,coverage=conditional or adaptive,adaptive.track=turn. A split control "
            "without calibration=FILE (calibration.json, or .npy of perplexities) is calibrated "
            "on the other folds. May be repeated.",
            show_default="six of them",
        ),
    ] = None,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            min=0.0,
            max=1.0,
            help="A nominal take-over rate; may be repeated.",
            show_default="0.4",
        ),
    ] = None,
    recorded: Annotated[
        bool,
        typer.Option(
            "--recorded/--simulated",
            help="Scores arrive as recorded, or as a pool of chains would bring them.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the simulated order.")] = 0,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, help="Chains of the simulated pool.")
    ] = 128,
    folds: Annotated[
        int, typer.Option("--folds", min=2, help="Parts that calibrate each other.")
    ] = 5,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the rates: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Let controls decide on recorded scores, and compare how they hold the take-over rate.

    Also shows how well each kind of score tells wrong chains from right ones, where that is known.
    """
    from atts.analysis.arrival import recorded_order, simulated_order
    from atts.analysis.recording import load_recording
    from atts.analysis.replay import Contender, as_recorded
    from atts.analysis.replay import replay as replay_one
    from atts.analysis.separation import separations

    contenders = [Contender.parse(name) for name in controls or CONTENDERS]
    recording = load_recording(source)
    arrivals = (
        recorded_order(recording) if recorded else simulated_order(recording, seed, in_flight)
    )
    replays = []
    for rate in rates or [0.4]:
        if not rates or len(rates) == 1:  # what was recorded had one nominal rate
            replays.append(as_recorded(arrivals, rate))
        replays += [replay_one(recording, arrivals, each, rate, folds) for each in contenders]
    found = separations(recording)
    if plot:
        from atts.reports.plots import plot_replays

        plot_replays(replays, plot)
        say(f"Wrote {plot}")
    if as_json:
        content = {
            "recording": str(source),
            "replays": [each.model_dump(mode="json") for each in replays],
            "separations": [each.model_dump(mode="json") for each in found],
        }
        typer.echo(json.dumps(content, indent=2))
        return
    out().print(_rates_table(replays), soft_wrap=False)
    if len({each.nominal for each in replays}) == 1:
        out().print(_turns_table(replays), soft_wrap=False)
    if found:
        out().print(_separations_table(found), soft_wrap=False)


def _rates_table(replays: "list[Replayed]") -> "Table":
    from atts.reports.summary_table import plain_table
    from atts.text import safe_markup

    table = plain_table(
        f"{replays[0].decisions:,} decisions. Off by: |rate - nominal|, over turns with at least "
        "75 decisions. Spread: standard deviation over problems with at least 30. Intervals are "
        "95 %, clustered by problem."
    )
    table.add_column("")
    table.add_column("control", overflow="fold")
    for name in ("nominal", "realised", "turns off by, mean", "largest", "spread over problems"):
        table.add_column(name, justify="right")
    for letter, each in zip(_letters(), replays, strict=False):
        realised = each.realised
        table.add_row(
            letter,
            safe_markup(each.control),
            f"{each.nominal:g}",
            f"{realised.estimate:.3f} ({realised.low:.3f}-{realised.high:.3f})",
            *map(
                _three_digits,
                (each.mean_turn_deviation, each.largest_turn_deviation, each.problem_spread),
            ),
        )
    return table


def _turns_table(replays: "list[Replayed]") -> "Table":
    from atts.reports.summary_table import plain_table

    table = plain_table("Realised rate by turn, of the controls above.")
    table.add_column("turn", justify="right")
    table.add_column("decisions", justify="right")
    for letter, _ in zip(_letters(), replays, strict=False):
        table.add_column(letter, justify="right")
    for rows in zip(*(each.by_turn for each in replays), strict=True):
        table.add_row(
            rows[0].group.removeprefix("turn "),
            f"{rows[0].decisions:,}",
            *(f"{row.realised.estimate:.3f}" for row in rows),
        )
    return table


def _separations_table(found: "list[Separation]") -> "Table":
    from atts.reports.summary_table import plain_table

    table = plain_table(
        f"{found[0].wrong:,} wrong and {found[0].right:,} right chains. AUROC: the chance that a "
        "wrong chain has the higher mean score; 0.5 is no better than chance."
    )
    table.add_column("score")
    table.add_column("AUROC", justify="right")
    for each in found:
        auroc = each.auroc
        table.add_row(each.kind, f"{auroc.estimate:.3f} ({auroc.low:.3f}-{auroc.high:.3f})")
    return table


def _letters() -> "Iterator[str]":
    """A to Z, then AA and on: what names a row of the first table in the others."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _three_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
