"""A sentence for each run, that claims no more than is there."""

from pathlib import Path

import pytest
from timed_runs import chain

from atts.analysis.graded_run import grade_run
from atts.analysis.profile import profile
from atts.analysis.report import RunReport
from atts.analysis.summary import summarise
from atts.config import parse_config
from atts.grading.grader import Grader, VerdictCache
from atts.reports.notes import alarms, certificates, notes
from atts.reports.verdict import verdicts
from atts.store.environment import Environment
from atts.store.run_directory import RecordedRun
from atts.types import Chain, Problem, Segment, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)


def machine(processor: str = "one") -> Environment:
    return Environment(
        python="3",
        platform="x",
        processor=processor,
        cpus=2,
        memory_bytes=1,
        packages={},
        engines={},
    )


def report(
    name: str,
    right: str,
    method: str = "target-only",
    tokens: int = 100,
    seconds: float = 1.0,
    gold: str | None = "2",
    missing: int = 0,
    environments: tuple[Environment, ...] = (machine(),),
) -> RunReport:
    """A run of one chain for each letter of ``right``: r for a right one, w for a wrong one."""
    segment = Segment(
        author="target",
        text="x",
        tokens=tokens,
        finish_reason="stop",
        cached_tokens=0,
        timings=TIMINGS,
    )
    chains: list[Chain] = [
        chain([Turn(segments=(segment,))], 0.0, seconds, f"p{n}").model_copy(
            update={"answer": "2" if letter == "r" else "3"}
        )
        for n, letter in enumerate(right)
    ]
    config = parse_config({"method": method, "samples": 1}, "the test")
    problems = tuple(Problem(id=f"p{n}", question="1 + 1?", answer=gold) for n in range(len(right)))
    run = RecordedRun(config, problems, tuple(chains[: len(chains) - missing]))
    with Grader(cache=VerdictCache()) as grader:
        graded = grade_run(run, grader)
    return RunReport(name, Path(name), graded, summarise(graded), profile(graded.run), environments)


def test_a_run_alone_is_told_by_itself() -> None:
    (said,) = verdicts([report("mine", "rrrw")]).values()
    assert said.startswith("mine: 75.0 % of chains are right (")
    assert said.endswith("4 problems x 1 chains).")


def test_what_the_interval_shows_is_claimed_and_nothing_else() -> None:
    alone = report("target-only", "r" * 20, tokens=200, seconds=2.0)
    worse = report("worse", "w" * 12 + "r" * 8, "atts", tokens=50, seconds=1.0)
    alike = report("alike", "w" + "r" * 19, "atts", tokens=100, seconds=3.0)
    said = verdicts([worse, alike, alone])
    assert said["target-only"].startswith("target-only: 100.0 % of chains are right")
    assert said["worse"].startswith("worse is 60.0 points less accurate than target-only (95 % -")
    assert said["worse"].endswith("with 25 % of its target tokens and 0.50 x its time.")
    assert "adjusted" in said["worse"]
    assert said["alike"].startswith(
        "alike: no difference in accuracy from target-only is seen (-5.0"
    )
    assert said["alike"].endswith("with 50 % of its target tokens and 1.50 x its time.")
    better = verdicts([report("base", "w" * 20, "draft-only"), report("up", "r" * 20, "atts")])
    assert better["up"].startswith("up is 100.0 points more accurate than base (")


def test_many_comparisons_need_more() -> None:
    """p = 0.031 is below 5 % alone, and not as one of four."""
    alone = report("target-only", "r" * 20)
    less = [report(f"run{n}", "w" * 6 + "r" * 14, "atts") for n in range(4)]
    assert "less accurate" in verdicts([alone, less[0]])["run0"]
    assert all("no difference" in verdicts([alone, *less])[each.name] for each in less)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (report("x", "rrrr", "atts", missing=1), "1 of its chains are not done yet"),
    ],
)
def test_what_cannot_be_compared_is_said(other: RunReport, why: str) -> None:
    said = verdicts([report("target-only", "rrrw"), other])["x"]
    assert said.startswith(f"x is not compared with target-only: {why}")


def test_each_problem_set_has_a_reference_of_its_own() -> None:
    runs = [
        report("a", "rrrw"),
        report("b", "rrr"),
        report("x", "www", "atts"),
        report("y", "rrrw", "atts"),
    ]
    said = verdicts(runs)
    assert said["a"].endswith(
        "Other runs have other problems: atts compare takes those that they share."
    )
    assert "from b is seen" in said["x"]
    assert "from a is seen" in said["y"]


def test_without_gold_answers_nothing_is_right_or_wrong() -> None:
    said = verdicts([report("target-only", "rr", gold=None), report("x", "rr", "atts", gold=None)])
    assert said["target-only"].endswith("without gold answers.")
    assert said["x"].endswith("no problem has a gold answer.")


def test_few_problems_cannot_show_a_difference() -> None:
    said = verdicts([report("target-only", "rrrr"), report("x", "wwww", "atts")])["x"]
    assert (
        "no difference in accuracy from target-only is seen, which so few problems (4) could not"
        in said
    )


@pytest.mark.parametrize("environments", [(machine("another"),), (machine(), machine())])
def test_times_of_other_machines_and_of_two_starts_do_not_compare(
    environments: tuple[Environment, ...],
) -> None:
    other = report("x", "rrrw", "atts", environments=environments)
    said = verdicts([report("target-only", "rrrr"), other])["x"]
    assert said.endswith("with 100 % of its target tokens; their times do not compare.")


def test_what_concerns_all_runs_is_said_once() -> None:
    runs = [report(name, "rrrr", missing=1) for name in ("a", "b")]
    assert notes(runs) == ["All runs: 1 chains are not done yet."]
    assert notes([*runs, report("c", "rrrr")]) == ["a; b: 1 chains are not done yet."]
    assert certificates(runs) == []
    assert alarms(runs) == []
