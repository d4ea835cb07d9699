"""Progress, live in a terminal and as plain lines elsewhere."""

import io
import time

import pytest
from rich.console import Console

from atts.cli.progress import Display
from atts.types import Chain, Decision, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)


def chain(take_over: bool | None, failed: bool = False) -> Chain:
    decision = Decision(
        score=1.0,
        p_value=0.2,
        take_over=bool(take_over),
        scored_tokens=3,
        cached_tokens=0,
        timings=TIMINGS,
    )
    return Chain(
        problem_id="p",
        sample=0,
        end="failed" if failed else "stop",
        answer=None,
        turns=(Turn(segments=(), decision=None if take_over is None else decision),),
        started=0.0,
        done=1.0,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def plain() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=100), file


def test_plain_lines_are_sparse(clock: Clock) -> None:
    console, file = plain()
    with Display(console) as display:
        stage = display.stage("target-only")
        stage.started(total=100, done=0)
        for _ in range(100):
            clock.now += 0.25
            stage.chain_done(chain(None))
    assert file.getvalue().splitlines() == [
        "target-only: 100 chains",
        "target-only: 40/100 in 0:10, 4.0/s, 0:15 left",
        "target-only: 80/100 in 0:20, 4.0/s, 0:05 left",
        "target-only: 100/100 in 0:25, 4.0/s",
    ]


def test_chains_done_before_do_not_count_for_the_rate(clock: Clock) -> None:
    console, file = plain()
    stage = Display(console).stage("atts")
    stage.started(total=52, done=50)
    clock.now += 2
    stage.chain_done(chain(take_over=True))
    clock.now += 2
    stage.chain_done(chain(take_over=False, failed=True))
    assert file.getvalue().splitlines() == [
        "atts: 52 chains, 50 of them done before",
        "atts: 52/52 in 0:04, 0.5/s, take-over 0.50, 1 failed",
    ]


def test_a_stage_with_nothing_to_do_is_shown() -> None:
    console, file = plain()
    Display(console).stage("atts").started(total=3, done=3)
    assert file.getvalue() == "atts: 3 chains, 3 of them done before\n"


def test_a_stage_name_is_printed_as_it_stands() -> None:
    console, file = plain()
    Display(console).stage("[red]\x1b[2J").started(total=1, done=0)
    assert file.getvalue() == "[red]\\x1b[2J: 1 chains\n"


def test_a_terminal_shows_a_line_per_stage() -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system=None)
    with Display(console) as display:
        for name in ("draft-only", "[red]atts"):
            stage = display.stage(name)
            stage.started(total=2, done=1)
            stage.chain_done(chain(take_over=True))
    shown = file.getvalue().splitlines()
    assert any("draft-only" in line for line in shown)
    last = [line for line in shown if "[red]atts" in line][-1]
    assert "2/2" in last
    assert "take-over 1.00" in last
