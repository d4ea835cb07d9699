"""``atts replay``: what any control would have decided on recorded scores."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.recording import load_recording, recorded_order, simulated_order
from atts.analysis.replay import ControlSpec, replay_all, separations
from atts.cli.commands import new_app
from atts.cli.options import Format
from atts.cli.progress import counting
from atts.cli.terminal import EXIT_CODES, echo_json, err, print_tables, say
from atts.grading.grader import Grader, VerdictCache
from atts.reports.plots import plot_replays
from atts.reports.replay_table import tables

CONTROLS = (
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

Only scores are replayed: had a control taken over or cut (mode rewind) elsewhere, the text after
that, and so the later scores, would have been others. docs/statistics.md says what each control
guarantees.

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
            "as online,coverage=conditional or adaptive,adaptive.track=turn. Scores are of the "
            "recording's own kind unless score.kind is among them. A split control "
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
    form: Format = "text",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Let controls decide on recorded scores, and compare how they hold the take-over rate.

    Also shows how well each kind of score tells wrong chains from right ones, where that is known.
    """
    specs = [ControlSpec.parse(name) for name in controls or CONTROLS]
    with (
        counting(err(), "grading") as progress,
        Grader(cache=VerdictCache(), progress=progress) as grader,
    ):
        recording = load_recording(source, grader)
    arrivals = (
        recorded_order(recording) if recorded else simulated_order(recording, seed, in_flight)
    )
    replays = replay_all(recording, arrivals, specs, rates or [0.4], folds)
    found = separations(recording)
    if plot:
        plot_replays(replays, plot)
        say(f"Wrote {plot}")
    if as_json:
        echo_json(
            {
                "recording": str(source),
                "replays": [each.model_dump(mode="json") for each in replays],
                "separations": [each.model_dump(mode="json") for each in found],
            }
        )
        return
    print_tables(tables(replays, found), form)
