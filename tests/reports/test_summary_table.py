"""The table that compares runs: what stands in it, and that it fits."""

import io
from collections.abc import Callable

import pytest
from recorded import summarised
from rich.console import Console

from atts.analysis.summary import Summary
from atts.config import parse_config
from atts.grading.intervals import Interval
from atts.reports.summary_table import comparison
from atts.text import visible
from atts.types import Chain, Problem

MakeChain = Callable[..., Chain]
MakeSummary = Callable[..., Summary]
PROBLEMS = [Problem(id=f"p{n}", question=f"{n}?", answer=str(n)) for n in range(20)]


@pytest.fixture
def make_summary(make_chain: MakeChain) -> MakeSummary:
    def make(method: str, done: float = 10.0, samples: int = 4, missing: int = 0) -> Summary:
        config = parse_config({"method": method, "samples": samples}, "the test")
        take_overs = (True, False) if method == "atts" else ()
        chains = [
            make_chain(problem.id, sample, problem.answer if sample else "no", take_overs)
            for problem in PROBLEMS
            for sample in range(samples)
        ]
        chains[0] = chains[0].model_copy(update={"done": done})
        return summarised(config, PROBLEMS, chains[: len(chains) - missing])

    return make


def lines(*runs: tuple[str, Summary], width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison(runs))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def row(label: str, table: list[str]) -> list[str] | None:
    found = [line.removeprefix(label).split("  ") for line in table if line.startswith(label)]
    return [cell.strip() for cell in found[0] if cell.strip()] if found else None


def test_metrics_are_rows_and_runs_are_columns(make_summary: MakeSummary) -> None:
    table = lines(
        ("draft-only", make_summary("draft-only", done=5.0)),
        ("target-only", make_summary("target-only", done=20.0)),
        ("atts", make_summary("atts", done=10.0)),
    )
    assert row("", table[:1]) == ["draft-only", "target-only", "atts"]
    assert row("problems x chains", table) == ["20 x 4"] * 3
    assert row("accuracy per chain, %", table) == ["75.0 (62.4-79.2)"] * 3  # no problem varies
    assert row("take-over, nominal, %", table) == ["-", "-", "40.0"]
    realised = row("take-over, realised, %", table)
    assert realised
    assert realised[2].startswith("50.0 (")
    assert row("  turn 0, % of decisions", table) == ["-", "-", "100.0 of 80"]
    assert row("  turn 1, % of decisions", table) == ["-", "-", "0.0 of 80"]
    assert row("draft tokens written", table) == ["0", "0", "1,600"]
    assert row("target tokens written", table) == ["0", "0", "560"]
    assert row("target tokens scored", table) == ["0", "0", "1,280"]
    assert row("wall time, s", table) == ["5.0", "20.0", "10.0"]
    assert row("  x that of target-only", table) == ["0.25", "1.00", "0.50"]
    assert table[-1] == "Intervals are 95 %, clustered by problem."


def test_a_row_that_no_run_has_is_left_out(make_summary: MakeSummary) -> None:
    table = lines(("draft-only", make_summary("draft-only")))
    labels = ("failed chains", "chains not done yet", "  x that of", "take-over", "pass@1,")
    assert [label for label in labels if row(label, table)] == []
    assert row("pass@2, %", table)
    assert row("pass@4, %", table)


def test_runs_over_the_same_problems_are_compared_with_the_first(
    make_summary: MakeSummary, make_chain: MakeChain
) -> None:
    config = parse_config({"samples": 4}, "the test")
    worse = summarised(
        config, PROBLEMS, [make_chain(p.id, s, "no") for p in PROBLEMS for s in range(4)]
    )
    other = summarised(config, PROBLEMS[:1], [make_chain("p0", s, "0") for s in range(4)])
    first = make_summary("target-only")
    table = lines(
        ("target-only", first), ("worse", worse), ("other", other), ("same", first.model_copy())
    )
    assert row("  minus the first run's", table) == [
        "-",
        "-75.0 (-79.2..-45.5)",
        "-",
        "+0.0 (-16.8..16.8)",
    ]
    assert row("  p of that, paired", table) == ["-", "<0.001", "-", "1.000"]
    half = first.model_copy(update={"expected_chains": 2 * first.chains})
    assert row("  minus the first run's", lines(("half", half), ("same", first))) is None


def test_answers_that_are_missing_or_ungraded_are_shown(make_chain: MakeChain) -> None:
    config = parse_config({"samples": 4}, "the test")
    chains = [make_chain("p0", 0, "0"), make_chain("p0", 1, None), make_chain("p0", 2, "(" * 2000)]
    table = lines(("run", summarised(config, PROBLEMS[:1], chains)))
    assert row("chains without answer, %", table) == ["33.3"]
    assert row("ungraded chains, %", table) == ["33.3"]


def test_failed_and_missing_chains_are_shown(
    make_summary: MakeSummary, make_chain: MakeChain
) -> None:
    config = parse_config({"samples": 1}, "the test")
    failed = summarised(config, PROBLEMS, [make_chain("p0", 0, None, end="failed")])
    table = lines(("failed", failed), ("fine", make_summary("atts")))
    assert row("failed chains", table) == ["1", "-"]
    assert row("chains not done yet", table) == ["19", "-"]


@pytest.mark.parametrize("difference", [{"samples": 2}, {"missing": 1}])
def test_wall_times_of_different_work_are_not_compared(
    make_summary: MakeSummary, difference: dict[str, int]
) -> None:
    table = lines(
        ("target-only", make_summary("target-only")), ("atts", make_summary("atts", **difference))
    )
    assert row("  x that of target-only", table) == ["1.00", "-"]


def test_an_unfinished_reference_is_none(make_summary: MakeSummary) -> None:
    unfinished = make_summary("target-only", missing=1)
    table = lines(("target-only", unfinished), ("atts", make_summary("atts")))
    assert row("  x that of target-only", table) is None


@pytest.mark.parametrize("width", [80, 100])
def test_four_runs_fit_in_parts_if_need_be(make_summary: MakeSummary, width: int) -> None:
    names = ("draft-only", "target-only", "atts-marginal", "atts-conditional")
    table = lines(*((name, make_summary("atts")) for name in names), width=width)
    assert max(map(len, table)) <= width
    joined = "\n".join(table)
    for word in ("draft-only", "target-only", "marginal", "conditional"):
        assert word in joined  # no name is broken inside a word
    assert sum(line.startswith("───") for line in table) == (1 if width == 100 else 2)


def test_names_are_printed_as_they_stand(make_summary: MakeSummary) -> None:
    table = lines(("[red]\x1b[2J", make_summary("atts")))
    assert row("", table[:1]) == [r"[red]\x1b[2J"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc é 漢", "a\tb\nc é 漢"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("over\rwritten", r"over\rwritten"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_methods_without_a_nominal_rate_have_no_rows_by_turn(make_chain: MakeChain) -> None:
    def summary(method: str) -> Summary:
        chains = [make_chain(problem.id, 0, problem.answer, (True, False)) for problem in PROBLEMS]
        return summarised(parse_config({"method": method, "samples": 1}, "it"), PROBLEMS, chains)

    # As many turns as a chain has steps would drown everything else.
    table = lines(("steps", summary("specreason")), ("votes", summary("self-consistency")))
    assert row("take-over, nominal, %", table) is None
    assert row("take-over, realised, %", table) == ["50.0 (41.6-58.4)", "-"]
    assert not any(line.startswith("  turn") for line in table)
    assert row("selected answer, %", table) == ["-", "100 (83.2-100)"]
    table = lines(("steps", summary("specreason")), ("ranks", summary("sync-ranking")))
    assert row("  turn 0, % of decisions", table) == ["-", "100.0 of 20"]


def test_a_split_run_shows_what_its_calibration_promises(make_summary: MakeSummary) -> None:
    summary = make_summary("atts")
    assert not any("promised" in line for line in lines(("it", summary), width=80))
    promised = Interval(estimate=0.4, low=0.315, high=0.498)
    table = lines(("it", summary.model_copy(update={"promised_rate": promised})), width=80)
    assert any("promised by calibration, %" in line and "31.5-49.8" in line for line in table)
