# mypy: disable-error-code="union-attr"
"""Comparisons of recorded runs, against counts by hand."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from atts.analysis.comparison import (
    ACCURACY,
    ANSWER,
    WORK,
    WRITTEN,
    Comparison,
    NamedRun,
    compare,
)
from atts.analysis.tokens import TokenBudget
from atts.config import parse_config
from atts.errors import ConfigError, GradingError, StoreError
from atts.grading.grader import Grader
from atts.grading.paired import paired_difference
from atts.reports.comparison_table import frontier_lines, table, to_csv
from atts.reports.plots import plot_frontiers
from atts.reports.summary_table import heading
from atts.store.run_directory import RecordedRun
from atts.text import visible
from atts.types import Chain, Problem, Rating, Timings, Turn

MakeChain = Callable[..., Chain]
MakeRun = Callable[..., NamedRun]
TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)
PROBLEMS = tuple(Problem(id=f"p{n}", question=f"{n}?", answer=str(n)) for n in range(6))


@pytest.fixture
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


@pytest.fixture
def make_run(make_chain: MakeChain) -> MakeRun:
    """A run: ``right`` of each problem's 4 chains are right, and each has the same take-overs."""

    def make(
        name: str,
        right: int,
        take_overs: tuple[bool, ...] = (),
        problems: tuple[Problem, ...] = PROBLEMS,
        done: float = 10.0,
        **settings: object,
    ) -> NamedRun:
        config = parse_config({"method": "atts", "samples": 4, **settings}, "the test")
        chains = tuple(
            make_chain(
                p.id,
                sample,
                p.answer if sample < right else f"{900 + sample}",
                take_overs,
                done=done,
            )
            for p in problems
            for sample in range(4)
        )
        return NamedRun(name, f"runs/{name}", RecordedRun(config, problems, chains))

    return make


def replace(named: NamedRun, index: int, **changes: object) -> NamedRun:
    chains = list(named.run.chains)
    chains[index] = chains[index].model_copy(update=changes)
    return named._replace(run=named.run._replace(chains=tuple(chains)))


def test_everything_is_counted(make_run: MakeRun, grader: Grader) -> None:
    # A take-over: 10 tokens of the draft, replaced, 8 scored, and 7 of the target.
    reference = make_run("reference", 2, (True, True), done=20.0)
    ours = replace(make_run("ours", 3, (True, False)), 23, end="failed", error="lost", answer=None)
    found = compare([reference, ours], "reference", grader)
    assert (found.problems, found.left_out, found.differing) == (6, 0, ())
    first, second = found.runs
    assert first.against is None
    assert (first.target_written, first.target_work) == (14.0, 30.0)
    assert first.thrown_away == {"draft": 24 * 20, "target": 0}
    # The fixture's draft segments are all marked as replaced; a failed chain keeps nothing.
    assert second.thrown_away == {"draft": 24 * 20, "target": 7}
    assert first.speed
    assert second.speed
    assert first.speed.chains_per_second == 24 / 20
    assert second.speed.chains_per_second == 23 / 10
    assert second.speed.accepted_tokens_per_second == 23 * 7 / 10
    assert second.against
    assert second.against.wall_seconds == 10 / 20
    assert second.against.accuracy == paired_difference(
        second.summary.accuracy_by_problem, first.summary.accuracy_by_problem
    )
    assert second.against.accuracy.estimate == pytest.approx(1 / 4)
    assert second.against.accuracy.p_value == pytest.approx(2 / 2**6)
    assert second.against.accuracy_p_adjusted == pytest.approx(2 / 2**6)  # it is the only one
    assert second.against.target_written
    assert second.against.target_written.estimate == 7 / 14
    assert second.against.target_work
    assert second.against.target_work.estimate == pytest.approx(23 / 30)


def test_p_values_are_adjusted_for_the_number_of_runs(make_run: MakeRun, grader: Grader) -> None:
    runs = [make_run("reference", 2), make_run("up", 3), make_run("same", 2), make_run("down", 1)]
    found = compare(runs, "reference", grader)
    adjusted = {run.name: run.against.accuracy_p_adjusted for run in found.runs if run.against}
    assert adjusted == pytest.approx({"up": 6 / 2**6, "same": 1.0, "down": 6 / 2**6})
    # A run that wrote nothing by the target is no measure of what others wrote.
    assert all(run.against.target_written is None for run in found.runs if run.against)


def test_frontiers_by_chain_and_by_problem(make_run: MakeRun, grader: Grader) -> None:
    runs = [
        make_run("much", 3, (True, True)),
        make_run("some", 3, (True,)),
        make_run("none", 1, (False,)),
        make_run("bad", 1, (True, True, True)),
    ]
    found = compare(runs, "much", grader)
    assert [(f.value, f.cost) for f in found.frontiers] == [
        (ACCURACY, WRITTEN),
        (ACCURACY, WORK),
        (ANSWER, WRITTEN),
        (ANSWER, WORK),
    ]
    for frontier in found.frontiers:
        assert frontier.runs == ("none", "some")
        assert frontier.beaten == {"much": "some", "bad": "some"}
    assert frontier_lines(found)[:2] == [
        "accuracy per chain against target tokens written: none, some",
        "  beaten: much (by some), bad (by some)",
    ]


def test_only_shared_problems_with_all_their_chains_count(
    make_run: MakeRun, grader: Grader
) -> None:
    whole = make_run("whole", 2)
    other = Problem(id="p1", question="another?", answer="1")
    changed = make_run("changed", 2, problems=(PROBLEMS[0], other, *PROBLEMS[2:5]))
    torn = make_run("torn", 2, problems=PROBLEMS[:5])
    torn = torn._replace(run=torn.run._replace(chains=torn.run.chains[:-1]))
    found = compare([whole, changed, torn], "whole", grader)
    assert found.problems == 3  # p1 is another one, p4 not done, p5 missing
    assert found.left_out == 3
    assert [set(run.summary.accuracy_by_problem) for run in found.runs] == [{"p0", "p2", "p3"}] * 3
    # What was measured of more than counts is not told.
    assert [run.speed for run in found.runs] == [None] * 3
    with pytest.raises(GradingError, match=r"no problem in common$"):
        compare([whole, make_run("other", 2, problems=(other,))], "whole", grader)
    half = whole._replace(run=whole.run._replace(chains=whole.run.chains[:3]))
    with pytest.raises(GradingError, match="let the runs go on"):
        compare([whole, half], "whole", grader)


def test_a_budget_pays_for_the_first_chains(make_run: MakeRun, grader: Grader) -> None:
    budget = TokenBudget(tokens=60, draft_cost=0.1, score_cost=0.5)
    cheap, dear = make_run("cheap", 1, (False,)), make_run("dear", 1, (True, True))
    found = compare([cheap, dear], "cheap", grader, budget)
    # A chain costs 1 + 4, or twice 1 + 4 + 7.
    assert [run.summary.samples for run in found.runs] == [4, 2]
    assert [run.spent for run in found.runs] == pytest.approx([20.0, 48.0])
    # The first chain of each problem is the right one.
    assert [run.summary.accuracy.estimate for run in found.runs] == [0.25, 0.5]
    assert found.runs[0].speed is not None  # it counts as a whole
    assert found.runs[1].speed is None
    assert [run.summary.digest for run in found.runs] == [cheap.run.config.digest()] * 2
    with pytest.raises(GradingError, match=r"one chain a problem of dear: that takes 24\.0"):
        compare([cheap, dear], "cheap", grader, budget.model_copy(update={"tokens": 23.9}))


def test_a_long_chain_is_not_left_out_for_its_length(make_run: MakeRun, grader: Grader) -> None:
    """How many chains count is the same for all problems: it is the average that is paid for."""
    run = make_run("run", 1, (True,))
    long = run.run.chains[0]
    run = replace(run, 0, turns=long.turns * 5)
    budget = TokenBudget(tokens=40, draft_cost=0.0, score_cost=0.0)  # 7 a chain, and 28 / 6 more
    assert compare([run], "run", grader, budget).runs[0].summary.samples == 4
    found = compare([run], "run", grader, budget.model_copy(update={"tokens": 32.6}))
    assert {len(run.summary.accuracy_by_problem) for run in found.runs} == {6}
    assert found.runs[0].summary.samples == 3


def test_chains_that_were_not_needed_are_no_throughput(make_run: MakeRun, grader: Grader) -> None:
    run = replace(make_run("run", 2, (True,)), 3, end="not-needed", answer=None)
    found = compare([run], "run", grader).runs[0]
    assert found.speed
    assert found.speed.chains_per_second == 23 / 10
    assert found.thrown_away["target"] == 7
    assert found.summary.pass_at_k == {}
    with pytest.raises(GradingError, match="run has ended chains that were not needed"):
        compare([run], "run", grader, TokenBudget(tokens=999, draft_cost=0, score_cost=0))


def test_a_selected_answer_is_the_answer(make_run: MakeRun, grader: Grader) -> None:
    reference = make_run("reference", 1)
    best = make_run("best", 1, method="best-of-n")
    rated = [
        chain.model_copy(
            update={
                "turns": (
                    Turn(
                        segments=(),
                        # The first chain, which is right, is the best of all problems but one.
                        rating=Rating(
                            value=-chain.sample if chain.problem_id != "p5" else chain.sample,
                            read_tokens=9,
                            cached_tokens=0,
                            timings=TIMINGS,
                        ),
                    ),
                )
            }
        )
        for chain in best.run.chains
    ]
    best = best._replace(run=best.run._replace(chains=tuple(rated)))
    found = compare([reference, best], "reference", grader).runs[1]
    assert found.answer == found.summary.selected
    assert found.answer.estimate == pytest.approx(5 / 6)
    assert found.against
    # Of the reference a vote decides, with 4 answers that are each given once.
    assert found.against.answer.estimate == pytest.approx(5 / 6 - 1 / 4)
    assert found.target_work == 9.0


def test_other_settings_are_named(make_run: MakeRun, grader: Grader) -> None:
    runs = [
        make_run("a", 2),
        make_run("b", 2, seed=3, take_over={"rate": 0.2}),
        make_run("c", 2, sampling={"temperature": 0.0}),
    ]
    assert compare(runs, "a", grader).differing == ("sampling.temperature", "seed")


# --- the views ------------------------------------------------------------------------------


def lines(comparison: Comparison, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(comparison))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def row(label: str, shown: list[str]) -> list[str]:
    """The cells of a row, in all parts of the table, without their intervals."""
    return [
        cell
        for line in shown
        if line.strip() == label or line.startswith(label + "  ")
        for cell in line.removeprefix(label).split()
        if not cell.startswith("(")
    ]


@pytest.fixture
def three(make_run: MakeRun, grader: Grader) -> Comparison:
    runs = [
        make_run("target-only", 2, (True, True), done=20.0),
        make_run("atts:take_over.rate=0.2", 3, (True, False)),
        make_run("[red]x\x1b[2J", 1, (False,)),
    ]
    return compare(runs, "target-only", grader)


@pytest.mark.parametrize("width", [100, 61, 45])
def test_the_table_fits_and_says_the_same_at_any_width(three: Comparison, width: int) -> None:
    shown = lines(three, width)
    assert max(map(len, shown)) <= width
    assert row("problems x chains", shown) == ["6", "x", "4"] * 3
    assert row("accuracy per chain, %", shown) == ["50.0", "75.0", "25.0"]
    assert sorted(row("  p, paired", shown)) == ["-"] * 2 + ["0.031"] * 3 + ["1.000"]
    assert row("wall time, s", shown) == ["20.0", "10.0", "10.0"]
    assert row("  x the reference's", shown) == ["-", "0.50", "0.50"]
    assert row("target tokens written", shown) == ["336", "168", "0"]
    assert row("  a chain, x reference's", shown) == ["-", "0.50", "0.00"]
    assert row("on the frontier: written", shown) == ["no", "yes", "yes"]
    assert row("ungraded chains, %", shown) == []
    assert "rate=0.2" in " ".join(shown)
    assert "[red]x\\x1b[2J" in "".join(shown).replace(" ", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("atts", "atts"),
        ("speculative-thinking", "speculative-thinking"),
        ("draft-only-0123456789abcdef", "draft-only-0123456789abcdef"),
        ("runs/a-b.c=d", "runs/a-b.c=d"),
        ("atts:take_over.mode=continue,sampling.stop=[a, b]", "atts\nmode=continue\nstop=[a, b]"),
    ],
)
def test_headings(name: str, shown: str) -> None:
    assert heading(name) == shown


def test_csv_has_a_line_a_run(three: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(three))))
    assert [each["name"] for each in rows] == [visible(run.name) for run in three.runs]
    assert [each["against.accuracy.estimate"] for each in rows] == ["", "0.25", "-0.25"]
    assert rows[0]["summary.tokens.target_written"] == "336"
    assert rows[1]["summary.pass_at_k.2.estimate"] == "1.0"
    assert not any("by_problem" in column for column in rows[0])


def test_a_comparison_is_stored_as_json(three: Comparison) -> None:
    assert Comparison.model_validate_json(three.model_dump_json()) == three


def test_the_frontiers_are_drawn(three: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_frontiers(three, tmp_path / "frontier.svg")
    assert "</svg>" in (tmp_path / "frontier.svg").read_text()
    with pytest.raises(ConfigError, match="cannot draw"):
        plot_frontiers(three, tmp_path / "frontier.docx")
    with pytest.raises(StoreError, match="cannot write"):
        plot_frontiers(three, tmp_path / "nowhere" / "frontier.png")
