"""Plots of replays. Needs matplotlib, which ``pip install 'atts[plots]'`` brings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atts.errors import ConfigError, StoreError
from atts.reports.escape import visible

if TYPE_CHECKING:
    from atts.replays.replay import Replayed


def plot_replays(replays: "Sequence[Replayed]", path: Path) -> None:
    """Draw the realised rate by turn, by problem and over time, a line a control.

    Raises:
        ConfigError: matplotlib is missing, or does not know the suffix of the path.
        StoreError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(f"plots need {error.name}: pip install 'atts[plots]'") from error
    figure = Figure(figsize=(12, 4), layout="constrained")
    turns, problems, time = figure.subplots(1, 3, sharey=True)
    for replay in replays:
        by_turn = [each.realised for each in replay.by_turn]
        label = visible(f"{replay.control}, {replay.nominal:g}").replace("$", r"\$")
        (line,) = turns.plot(
            [int(each.group.split()[1]) for each in replay.by_turn],
            [rate.estimate for rate in by_turn],
            marker=".",
            label=label,
        )
        colour = line.get_color()
        turns.fill_between(
            [int(each.group.split()[1]) for each in replay.by_turn],
            [rate.low for rate in by_turn],
            [rate.high for rate in by_turn],
            color=colour,
            alpha=0.15,
        )
        problems.plot(sorted(each.realised.estimate for each in replay.by_problem), color=colour)
        time.plot([each.realised.estimate for each in replay.over_time], color=colour)
    for axes, label in (
        (turns, "turn"),
        (problems, "problems, by their rate"),
        (time, "time, in parts of equally many decisions"),
    ):
        axes.set_xlabel(label)
        for nominal in {replay.nominal for replay in replays}:
            axes.axhline(nominal, color="black", linewidth=0.8, linestyle=":")
    turns.set_ylabel("realised take-over rate")
    turns.set_ylim(0, 1)
    figure.legend(loc="outside lower center", ncols=3)
    try:
        figure.savefig(path)
    except ValueError as error:
        raise ConfigError(f"cannot draw {path}: {error}") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
