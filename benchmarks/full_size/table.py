"""The rows of a file as tables: ratios to the target alone, and what the simulator says of them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import costs
from measuring import Followed, configuration, part_of
from models import PAIRS, make_model
from rich.console import Console
from rich.table import Table
from servers import Placement

from atts.config import Config
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod, make_servers
from atts.simulation.simulate import simulate
from atts.simulation.workload import Workload, load_workload
from atts.types import Author

ALONE = "target-only"
AUTHORS: tuple[Author, ...] = ("draft", "target")
GPUS = {"H200": "h200", "H100": "h100"}
"""By what the name of the device holds."""
Row = dict[str, Any]


def show(rows: Sequence[Row], traces: Path | None = None) -> None:
    """Print them; with simulated figures where there are ``traces``."""
    console = Console(width=190)
    runs = [row for row in rows if row["row"]["method"] != "costs" and not row.get("stopped")]
    if runs:
        console.print(runs_table(runs, load_workload(traces, True) if traces else None))
    if found := [row for row in rows if row["row"]["method"] == "costs" and "s" in row]:
        console.print(costs_table(found, traces is not None))


def setting(row: Row) -> tuple[Any, ...]:
    """What rows must share to be compared; the best of the target alone is what counts."""
    names = ("pair", "gpus", "weights", "cache", "in_flight", "waves", "longest", "scale")
    return (*(row["row"][name] for name in names), row["device"])


def runs_table(rows: Sequence[Row], workload: Workload | None) -> Table:
    alone: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["row"]["method"] == ALONE:
            best = alone.get(setting(row))
            if best is None or row["wall_seconds"] < best["wall_seconds"]:
                alone[setting(row)] = row
    table = Table()
    for column in (
        *("pair", "GPUs", "cache", "in flight", "method", "wall s", "x alone", "kept/s", "x alone"),
        *("take-over %", "hits % write d/t, score", "cache % d/t"),
        *(("simulated s", "error %") if workload else ()),
    ):
        table.add_column(column, no_wrap=column == "method")
    for row in rows:
        key, reference = row["row"], alone.get(setting(row))
        wall, rate = row["wall_seconds"], row["kept_per_second"]
        cells = [
            key["pair"],
            gpus(key),
            key["cache"],
            str(key["in_flight"]),
            plainly(key["method"]),
            f"{wall:.1f}" + (f" ({row['failed']} failed)" if row["failed"] else ""),
            f"{reference['wall_seconds'] / wall:.2f}" if reference else "",
            f"{rate:,.0f}",
            f"{rate / reference['kept_per_second']:.2f}" if reference else "",
            f"{100 * row['take_over_rate']:.0f}",
            "/".join(
                percent(row["hits"].get(name))
                for name in ("draft, writing", "target, writing", "target, scoring")
            ),
            "/".join(percent(row.get(f"{author}_peak_cache")) for author in ("draft", "target")),
        ]
        if workload:
            simulated = predicted(row, workload)
            cells += [f"{simulated:.1f}", f"{100 * (simulated / wall - 1):+.0f}"]
        table.add_row(*cells)
    return table


def costs_table(rows: Sequence[Row], simulated: bool) -> Table:
    """Each cost as measured, and behind a stroke as simulated."""
    columns = ("pair", "GPUs", "cache", "in flight", "prefix", "draft us", "target us", "scored us")
    table = Table(*columns, "d", "s")
    for row in rows:
        key = row["row"]
        theirs = predicted_costs(row) if simulated else {}

        def cell(name: str, digits: int, row: Row = row, theirs: Row = theirs) -> str:
            both = [each[name] for each in (row, theirs) if each]
            return " / ".join(f"{value:.{digits}f}" for value in both)

        table.add_row(
            *(key["pair"], gpus(key), key["cache"], str(key["in_flight"]), str(row["prefix"])),
            *(cell(name, 1) for name in ("draft", "target", "scored")),
            *(cell(name, 2) for name in ("d", "s")),
        )
    return table


def gpus(key: Row) -> str:
    """As ``1 + 1`` for a draft and a target, ``2 x 1`` for copies of the target alone."""
    if not key["has_draft"]:
        copies = key["gpus"] // key["target_parallel"]
        return f"{copies} x {key['target_parallel']}"
    return f"{key['draft_gpus'] or 'shared'} + {key['gpus'] - key['draft_gpus']}"


def plainly(method: str) -> str:
    """A method and its settings, without what goes without saying."""
    for left_out in ("take_over.", "limits.", ",score.kind=largest-surprise"):
        method = method.replace(left_out, "")
    return method


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def predicted(row: Row, workload: Workload) -> float:
    """Simulated wall seconds of a row, by the defaults."""
    key = row["row"]
    run = Followed(**{name: key[name] for name in Followed._fields})
    with TemporaryDirectory() as folder:
        return simulate(
            SimulatedMethod.parse(run.method),
            models_of(key, folder),
            part_of(workload, run.problems, run.longest, run.scale),
            hardware_of(row),
            run.in_flight,
            run.problems,
        ).wall_seconds


def predicted_costs(row: Row) -> dict[str, float]:
    """Simulated microseconds of a row, d and s."""
    hardware = hardware_of(row)
    with TemporaryDirectory() as folder:
        servers = make_servers(models_of(row["row"], folder), ("draft", "target"), hardware)
    first = {author: some[0] for author, some in servers.items()}
    return costs.predicted(row, first, hardware.client_seconds)


def models_of(key: Row, folder: str) -> Config:
    pair = PAIRS[key["pair"]]
    return configuration(*(str(make_model(m, Path(folder))) for m in (pair.draft, pair.target)))


def hardware_of(row: Row) -> Hardware:
    place = Placement(**{name: row["row"][name] for name in Placement._fields})
    models = {
        author: ModelHardware(
            gpus=len(place.gpus_of(author)) or 1,
            tensor_parallel=place.parallel_of(author),
            cache_tokens=row.get(f"{author}_cache_tokens"),
            weights=place.weights,
            cache=place.cache,
        )
        for author in AUTHORS
    }
    return Hardware(
        gpu=next(gpu for name, gpu in GPUS.items() if name in row["device"]),
        shared=place.shared,
        draft=models["draft"],
        target=models["target"],
    )
