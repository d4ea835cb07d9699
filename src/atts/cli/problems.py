"""``atts problems``: look at problem sets, and write them to files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atts.cli.commands import new_app
from atts.cli.terminal import EXIT_CODES, out, say
from atts.config import parse_config
from atts.files import atomic_write, to_jsonl
from atts.problems import load_problems
from atts.problems.registry import known_sets
from atts.text import visible
from atts.types import Problem

GENERATED = "arithmetic"

app = new_app(
    help="List, show and export problem sets.",
    epilog="Examples:\n\n    atts problems show arithmetic --split calibration --count 3\n"
    "    atts problems show math500/paper --problems-dir ~/problems\n"
    f"    atts problems export arithmetic problems.jsonl --count 500\n\n{EXIT_CODES}",
)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help=f"{GENERATED}, the name of a set (atts problems list), or the path of a JSONL file.",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--problems-dir",
        metavar="DIR",
        help="A folder of JSONL files named after the sets.",
        show_default="the Hugging Face hub",
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="train, calibration or test; ignored for a file.")
]


@app.command("list")
def list_sources() -> None:
    """List what problems.source can be."""
    table = Table("source", "problems", "what it is", "calibration takes", box=None, pad_edge=False)
    table.add_row(
        GENERATED, "any", "multi-step arithmetic word problems, generated", "its calibration split"
    )
    for name, known in known_sets().items():
        size = "" if known.size is None else str(known.size)
        other = "its training split" if known.training else known.calibrate_on or "-"
        table.add_row(name, size, known.title, other)
        if known.paper:
            rest = f"the rest of {name}" if known.rest_calibrates else other
            table.add_row(f"{name}/paper", "", "  the part that the ATTS paper takes", rest)
    table.add_row(
        "FILE.jsonl", "", "one problem per line: id, question, answer, and optionally choices", "-"
    )
    out().print(table, soft_wrap=False)


@app.command()
def show(
    source: Source = GENERATED,
    split: SplitOption = "test",
    count: Annotated[int, typer.Option("--count", min=1, help="How many, from the first.")] = 5,
    folder: Folder = None,
) -> None:
    """Print problems with their answers."""
    console = out()
    # There may be fewer than are shown.
    wanted = count if source == GENERATED else None
    for problem in _load(source, split, wanted, folder)[:count]:
        # Only the words of this file are styled: what a problem says is printed as it stands.
        console.print(visible(problem.id), style="bold", markup=False)
        console.print(visible(problem.question), markup=False)
        for choice in problem.choices:
            console.print(f"  - {visible(choice)}", markup=False)
        answer = "none is known" if problem.answer is None else visible(problem.answer)
        console.print(f"answer: {answer}\n", markup=False)


@app.command()
def export(
    source: Source,
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The JSONL file to write.")],
    split: SplitOption = "test",
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            help="How many, from the first.",
            show_default=f"100 of {GENERATED}, else all",
        ),
    ] = None,
    folder: Folder = None,
) -> None:
    """Write problems to a JSONL file, which problems.source can then name."""
    problems = _load(source, split, count, folder)
    atomic_write(target, to_jsonl(problems))
    say(f"Wrote {len(problems)} problems to {target}")


def _load(source: str, split: str, count: int | None, folder: Path | None) -> list[Problem]:
    options = {"source": source, "split": split, "count": count, "folder": folder}
    return load_problems(parse_config({"problems": options}, "the command line").problems)
