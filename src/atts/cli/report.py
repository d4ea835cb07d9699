"""``atts report``: what recorded runs came to."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.report import RunReport, read_report, run_names
from atts.cli.commands import new_app
from atts.cli.progress import counting
from atts.cli.terminal import EXIT_CODES, echo_json, err, out, say, say_guarantee
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.reports.figures import make_figures, save_figures
from atts.reports.html import render_page
from atts.reports.summary_table import comparison

EXAMPLES = f"""Examples:

    atts report runs/target-only-* runs/atts-*
    atts report runs/demo/001/target-only --json
    atts report runs/demo/001/atts-* --html report.html --figures figures/

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write one HTML file that needs no network: the figures, and the chains to read.",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Write each figure as PNG, SVG and CSV, for papers."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Compare runs in one table, computed anew from their recorded chains; draw them, too."""
    names = run_names(runs)
    with (
        counting(err(), "grading") as progress,
        Grader(cache=VerdictCache(), progress=progress) as grader,
    ):
        reported = [
            read_report(name, directory, grader)
            for name, directory in zip(names, runs, strict=True)
        ]
    if html or figures:
        _write_figures(reported, html, figures)
    summaries = [each.summary for each in reported]
    if as_json:
        pairs = zip(runs, summaries, strict=True)
        echo_json([{"run": str(path), **found.model_dump(mode="json")} for path, found in pairs])
        return
    out().print(comparison(list(zip(names, summaries, strict=True))), soft_wrap=False)
    for each in reported:
        say_guarantee(each.name, each.summary, each.run.config.take_over)


def _write_figures(reported: list[RunReport], html: Path | None, folder: Path | None) -> None:
    made = make_figures(reported)
    if html:
        atomic_write(html, render_page(reported, made))
        say(f"Wrote {html}")
    if folder:
        save_figures(made, folder)
        say(f"Wrote {len(made)} figures to {folder}")
