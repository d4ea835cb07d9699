"""Figures: their numbers against counts by hand, and their files."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest
from recorded import HOSTILE, write_run

from atts.analysis.report import RunReport, read_report
from atts.errors import ConfigError, StoreError
from atts.grading.grader import Grader
from atts.reports.figures import Figure, make_figures, save_figures
from atts.reports.figures.base import COLOURS, Line
from atts.reports.figures.drawing import draw, to_csv
from atts.reports.figures.interactive import for_plotly
from atts.types import ChainKey


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunReport]:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "few", samples=2, names=HOSTILE)
    write_run(folder / "many", samples=4, turns=3)
    with Grader() as grader:
        return [read_report(name, folder / name, grader) for name in ("few", "many")]


@pytest.fixture(scope="module")
def figures(runs: Sequence[RunReport]) -> dict[str, Figure]:
    return {figure.name: figure for figure in make_figures(runs)}


def test_every_figure_is_there(figures: dict[str, Figure]) -> None:
    assert set(figures) == {
        "accuracy",
        "pass-at-k",
        "frontier",
        "cost",
        "rate-by-turn",
        "rate-by-problem",
        "rate-over-time",
        "phases",
        "intensity",
        *(f"{kind}-{number}" for kind in ("scores", "p-values", "timeline") for number in (0, 1)),
    }


def test_outcomes(runs: Sequence[RunReport]) -> None:
    outcomes = {key: verdict.outcome for key, verdict in runs[1].graded.verdicts.items()}
    assert [outcomes[ChainKey("p0", sample)] for sample in range(4)] == ["no answer"] + 3 * [
        "right"
    ]
    assert [outcomes[ChainKey("p2", sample)] for sample in range(4)] == 3 * ["wrong"] + ["failed"]


def test_the_numbers_of_the_figures(figures: dict[str, Figure]) -> None:
    accuracy = {(row[0], row[1]): row[2] for row in figures["accuracy"].rows}
    assert accuracy["many", "accuracy per chain"] == 0.5
    by_turn = [row[:4] for row in figures["rate-by-turn"].rows if row[0] == "many"]
    assert by_turn == [("many", 0, 12, 1.0), ("many", 1, 12, 0.0), ("many", 2, 12, 1.0)]
    assert [row[3] for row in figures["rate-by-problem"].rows if row[0] == "many"] == 3 * [
        pytest.approx(2 / 3)
    ]
    assert figures["cost"].rows == [("few", 20.0, 7.0, 20.0), ("many", 30.0, 14.0, 30.0)]
    # The second is right more often, and the first writes fewer target tokens.
    assert [row[-1] for row in figures["frontier"].rows] == [True, True]
    shares = [row[4] for row in figures["phases"].rows if row[0] == "many"]
    assert sum(float(share or 0) for share in shares) == pytest.approx(1.0)
    assert [row[1] for row in figures["intensity"].rows] == [2, 4]


def test_a_run_that_costs_more_for_less_is_off_the_frontier(runs: Sequence[RunReport]) -> None:
    few, many = runs
    worse = many._replace(
        name="worse", summary=few.summary.model_copy(update={"tokens": many.summary.tokens})
    )
    found = {figure.name: figure for figure in make_figures([few, many, worse])}["frontier"]
    assert [row[-1] for row in found.rows] == [True, True, False]
    assert "target tokens: few, many." in found.description


def test_the_timeline_holds_every_chain_second(
    figures: dict[str, Figure], runs: Sequence[RunReport]
) -> None:
    rows = figures["timeline-1"].rows
    width = float(rows[1][0] or 0) - float(rows[0][0] or 0)
    total = sum(float(cell or 0) for row in rows for cell in row[1:]) * width
    assert total == pytest.approx(runs[1].profile.chain_seconds)


def test_histograms_hold_every_segment(figures: dict[str, Figure]) -> None:
    columns = figures["scores-1"].columns
    assert columns[:4] == ("from", "to", "share, right chains", "share, wrong chains")
    for place in (2, 3):
        shares = [float(row[place] or 0) for row in figures["scores-1"].rows]
        assert sum(shares) == pytest.approx(1.0)
    assert figures["p-values-1"].rows[-1][1:] == (1.0, 1.0, 1.0)


def test_ranks_among_chains_are_no_calibration(runs: Sequence[RunReport]) -> None:
    summary = runs[1].summary.model_copy(update={"method": "sync-ranking"})
    names = {figure.name for figure in make_figures([runs[1]._replace(summary=summary)])}
    assert "scores-0" in names
    assert "p-values-0" not in names


def test_every_figure_is_drawn_for_papers(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        svg = draw(figure, "svg").decode()
        root = ET.fromstring(svg)  # noqa: S314  (our own)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        light = {shades[0] for shades in COLOURS.values()}
        assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) - light - {"#ffffff"}, figure.name
        assert "<script" not in svg
        assert "mathdefault" not in svg  # what matplotlib makes of a logarithmic axis
        for name in figure.names:
            assert name in "".join(root.itertext()), figure.name


def test_the_same_numbers_give_the_same_svg(figures: dict[str, Figure]) -> None:
    assert draw(figures["phases"], "svg") == draw(figures["phases"], "svg")


def test_the_page_draws_the_same_marks(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        made = for_plotly(figure)
        shown = [trace for trace in made["data"] if trace["hoverinfo"] != "skip"]
        assert [trace["name"] for trace in shown] == [mark.name for mark in figure.marks]
        for trace in shown:
            assert len(trace["hovertext"]) == len(trace["x"]) == len(trace["y"]) > 0
        # Every colour is a variable, so that none is left over on dark ground.
        text = json.dumps(made, allow_nan=False)
        assert not re.findall(r"#[0-9a-f]{6}\b", text)
        assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLOURS)
    rate = next(t for t in for_plotly(figures["rate-by-turn"])["data"] if t.get("name") == "many")
    assert (rate["x"], rate["y"]) == ([0, 1, 2], [1, 0, 1])
    assert rate["hovertext"][0].startswith("turn: 0<br>take-over rate: 1 (")
    assert (rate["line"]["dash"], rate["marker"]["symbol"]) == ("dash", "square")


def test_intervals_reach_as_far_in_the_page(figures: dict[str, Figure]) -> None:
    (mark, *_), (trace, *_) = figures["accuracy"].marks, for_plotly(figures["accuracy"])["data"]
    assert isinstance(mark, Line)
    for x, low, high, down, up in zip(
        mark.x,
        mark.low,
        mark.high,
        trace["error_x"]["arrayminus"],
        trace["error_x"]["array"],
        strict=True,
    ):
        assert (x - down, x + up) == pytest.approx((low, high), abs=0.01)


def test_names_are_no_markup_in_the_page(runs: Sequence[RunReport]) -> None:
    """Plotly makes bold text, links and line breaks of what looks like HTML."""
    hostile = runs[0]._replace(name='<a href="javascript:1">%{x}<br></a>')
    for figure in make_figures([hostile, runs[1]]):
        text = json.dumps(for_plotly(figure))
        assert "<a" not in text
        assert "template" not in text  # where %{x} would mean something


def test_files_for_papers(figures: dict[str, Figure], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_figures([figures["rate-by-problem"]], folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"rate-by-problem.{suffix}" for suffix in ("csv", "png", "svg")
    ]
    assert (folder / "rate-by-problem.png").read_bytes().startswith(b"\x89PNG")
    assert COLOURS["run0"][0] in (folder / "rate-by-problem.svg").read_text()
    with (folder / "rate-by-problem.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == figures["rate-by-problem"].columns
    assert [row[1] for row in rows if row[0] == "many"] == ["p0", "p1", "p2"]
    assert to_csv(figures["cost"]).splitlines()[1] == "few,20.0,7.0,20.0"


def test_a_folder_that_cannot_be_made(figures: dict[str, Figure], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write to"):
        save_figures([figures["cost"]], tmp_path / "file" / "folder")


def test_without_matplotlib_the_extra_is_named(
    figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'atts-lm\[plots\]'"):
        draw(figures["cost"], "svg")


def test_a_method_that_decides_without_scores_has_no_figure_of_rates(
    runs: Sequence[RunReport],
) -> None:
    many = runs[1]
    assert many.summary.take_over
    take_over = many.summary.take_over.model_copy(update={"nominal": None})
    chains = tuple(
        chain.model_copy(
            update={
                "turns": tuple(turn.model_copy(update={"decision": None}) for turn in chain.turns)
            }
        )
        for chain in many.run.chains
    )
    without = many._replace(
        summary=many.summary.model_copy(update={"take_over": take_over}),
        graded=many.graded._replace(run=many.run._replace(chains=chains)),
    )
    names = {figure.name for figure in make_figures([without])}
    assert "accuracy" in names
    assert not {"rate-by-turn", "rate-by-problem"} & names
