"""Runs to report on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, chromium
from recorded import HOSTILE, write_run
from timed_runs import MakeRun, make_timed_run

from atts.analysis.report import RunReport, read_report
from atts.grading.grader import Grader
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.types import Chain, ChainEnd, Decision, Segment, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)

MakeChain = Callable[..., Chain]


@pytest.fixture
def make_chain() -> MakeChain:
    """A chain whose turns take over as told: one draft segment each, and one of the target."""

    def make(
        problem_id: str,
        sample: int,
        answer: str | None,
        take_overs: tuple[bool, ...] = (),
        end: ChainEnd = "answer",
        done: float = 1.0,
    ) -> Chain:
        def segment(author: str, tokens: int) -> Segment:
            return Segment.model_validate(
                {
                    "author": author,
                    "text": "x",
                    "tokens": tokens,
                    "finish_reason": "length",
                    "cached_tokens": 3,
                    "timings": TIMINGS,
                    "kept": author == "target",
                }
            )

        turns = tuple(
            Turn(
                segments=(segment("draft", 10), segment("target", 7))
                if take_over
                else (segment("draft", 10),),
                decision=Decision(
                    score=1.0,
                    p_value=0.5,
                    take_over=take_over,
                    scored_tokens=8,
                    cached_tokens=5,
                    timings=TIMINGS,
                ),
            )
            for take_over in take_overs
        )
        return Chain(
            problem_id=problem_id,
            sample=sample,
            end=end,
            answer=answer,
            turns=turns,
            started=0.0,
            done=done,
            error="lost" if end == "failed" else None,
        )

    return make


@pytest.fixture
def make_run() -> MakeRun:
    return make_timed_run


MATHS = (
    r"So \(x^2 < 3\), \[\frac{1}{2} \in \mathbb{R}\] for $y$, $5 or $7. "
    r"\href{javascript:hacked=1}{a} $\href{javascript:hacked=1}{b}$ $\includegraphics{x.png}$ "
    r"$\rule{9999em}{9999em}$ $\def\a{\a\a}\a$ $\htmlStyle{position:fixed}{c}$ \[ unclosed"
)
"""Formulas of all kinds, some of them hostile, and one that goes on in the next segment."""


@pytest.fixture(scope="session")
def shown_runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunReport]:
    """Runs for a page: the first and the third have problems in common."""
    folder = tmp_path_factory.mktemp("runs")
    mean = {"score": {"kind": "mean"}}
    write_run(folder / "plain", problems=10, samples=4, turns=3, take_over=mean)
    write_run(folder / "hostile", text=HOSTILE, names=HOSTILE)
    rewind = {"mode": "rewind", "score": {"kind": "largest-surprise"}}
    write_run(folder / "rewind", cut=HOSTILE, take_over=rewind)
    write_run(folder / "ahead", cut=HOSTILE, take_over=rewind, problems=1, samples=1, names="a")
    chains = folder / "ahead" / "chains.jsonl"  # ten tokens more had come with the first segment
    several = chains.read_text().replace('"tokens":10', '"tokens":20', 1)
    several = several.replace('"cut_tokens":4', '"cut_tokens":14', 1)
    chains.write_text(several.replace('"scored_tokens":10', '"scored_tokens":20', 1))
    write_run(folder / "maths", problems=1, samples=1, text=MATHS, names="m")
    names = {"plain": "plain", "hostile": HOSTILE, "rewind": "rewind", "maths": "maths"}
    names["ahead"] = "ahead"
    with Grader() as grader:
        return [read_report(name, folder / each, grader) for each, name in names.items()]


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def folder_of_pages(shown_runs: list[RunReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with all kinds of figures, and one that is loaded faster."""
    folder = tmp_path_factory.mktemp("pages")
    # Of the figures that each run has for itself those of the second, whose name is hostile.
    figures = [
        figure
        for figure in make_figures(shown_runs)
        if not figure.name[-1].isdigit() or figure.name.endswith("-1")
    ]
    few = [figure for figure in figures if figure.name == "rate-by-turn"]
    (folder / "all.html").write_text(render_page(shown_runs, figures), encoding="utf-8")
    (folder / "few.html").write_text(render_page(shown_runs, few), encoding="utf-8")
    return folder


def _open(driver: Any, path: Path) -> Iterator[Page]:  # noqa: ANN401  (selenium may be absent)
    page = Page(driver, path.as_uri())
    yield page
    assert page.log("browser") == [], "the console holds messages"


@pytest.fixture
def page(driver: Any, folder_of_pages: Path) -> Iterator[Page]:  # noqa: ANN401
    """A report with a figure; not shown yet."""
    yield from _open(driver, folder_of_pages / "few.html")


@pytest.fixture
def full_page(driver: Any, folder_of_pages: Path) -> Iterator[Page]:  # noqa: ANN401
    """A report with all kinds of figures; not shown yet."""
    yield from _open(driver, folder_of_pages / "all.html")
