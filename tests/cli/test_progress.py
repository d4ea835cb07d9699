"""Progress: live in a terminal, plain lines elsewhere, JSON lines on demand."""

import asyncio
import io
import json
import re
import time
from typing import Any

import pytest
from fakes import FakeEngine
from rich.console import Console

from atts.cli import progress
from atts.cli.progress import Display, Stage, stages
from atts.engines.outage import IN_A_ROW, Outage
from atts.errors import EngineConnectionError
from atts.reports.snapshot import WINDOW_SECONDS
from atts.types import Chain, Decision, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)


def chain(failed: bool = False, needed: bool = True) -> Chain:
    return Chain(
        problem_id="p",
        sample=0,
        end="failed" if failed else "stop" if needed else "not-needed",
        answer=None,
        turns=(),
        started=0.0,
        done=1.0,
    )


def turn(take_over: bool) -> Turn:
    decision = Decision(
        score=1.0,
        p_value=0.2,
        take_over=take_over,
        scored_tokens=3,
        cached_tokens=0,
        timings=TIMINGS,
    )
    return Turn(segments=(), decision=decision)


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


def work(stage: Stage) -> None:
    """A moment of a run with 100 chains, 30 of them in flight."""
    activity = stage.activity
    activity.nominal = 0.4
    activity.in_flight = 30
    activity.has_barriers = True
    activity.at_work |= {"drafting": 20, "scoring": 2, "target writing": 8}
    for take_over in (True, False, False, True):
        activity.decided(take_over)
        activity.turn_done(turn(take_over))


def test_plain_lines(clock: Clock) -> None:
    console, file = plain()
    display = Display(console)
    display.tick()  # nothing has begun
    stage = display.stage("atts")
    stage.started(total=100, done=0)
    work(stage)
    for _ in range(40):
        clock.now += 0.25
        stage.chain_done(chain())
    display.tick()
    stage.activity.written["draft"] += 900
    stage.activity.in_flight = 0
    stage.activity.at_work |= {"drafting": 0, "scoring": 0, "target writing": 0}
    for number in range(60):
        clock.now += 0.25
        stage.chain_done(chain(failed=number == 7, needed=number < 58))
    display.tick()  # it is done
    assert file.getvalue().splitlines() == [
        "atts: 100 chains",
        "atts: 40/100 in 0:10, 4.0/s, 0:15 left, 30 waiting, 20 drafting, 2 scoring, "
        "8 target writing, take-over 0.50 now, 0.50 so far, nominal 0.4",
        "atts: 100/100 in 0:25, 4.0/s, take-over 0.50 now, 0.50 so far, nominal 0.4, 2 not needed, "
        "1 failed",
    ]


def test_lines_come_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while no chain ends."""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    console, file = plain()
    with Display(console) as display:
        display.stage("atts").started(total=2, done=0)
        while file.getvalue().count("\n") < 3:
            time.sleep(0.005)
    lines = file.getvalue()
    assert set(lines.splitlines()[1:]) == {"atts: 0/2 in 0:00, 2 waiting"}
    time.sleep(0.05)
    assert file.getvalue() == lines


def test_tokens_per_second_are_those_of_the_last_seconds(clock: Clock) -> None:
    stage = Display(plain()[0]).stage("atts")
    stage.started(total=2, done=0)
    stage.snapshot()
    for _ in range(100):
        clock.now += 1.0
        stage.activity.written["draft"] += 50
        assert stage.snapshot().tokens_per_second == {"draft": 50.0, "target": 0.0}
    for _ in range(int(WINDOW_SECONDS)):
        clock.now += 1.0
        stage.activity.written["target"] += 10
        found = stage.snapshot().tokens_per_second
    assert found == pytest.approx({"draft": 0.0, "target": 10.0})
    assert "tokens/s target 10" in stage.snapshot().line()


def test_chains_done_before_do_not_count_for_the_rate(clock: Clock) -> None:
    console, file = plain()
    stage = Display(console).stage("atts")
    stage.started(total=52, done=50)
    clock.now += 2
    stage.chain_done(chain())
    clock.now += 2
    stage.chain_done(chain(failed=True))
    assert file.getvalue().splitlines() == [
        "atts: 52 chains, 50 of them done before",
        "atts: 52/52 in 0:04, 0.5/s, 1 failed",
    ]


def test_a_wait_for_a_server_is_shown_with_the_patience_that_is_left(clock: Clock) -> None:
    async def meets_an_outage() -> Outage:
        outage = Outage(FakeEngine(), 600.0, "draft")
        for _ in range(IN_A_ROW):
            outage.failed(EngineConnectionError("no server is there"))
        return outage

    console, file = plain()
    display = Display(console)
    stage = display.stage("atts")
    stage.started(total=10, done=4)
    outage = asyncio.run(meets_an_outage())
    stage.activity.outages = [outage]
    clock.now += 65
    stage.chain_done(chain())
    display.tick()
    assert stage.snapshot().as_json()["waits_for"] == {"draft": 535.0}
    console.print(stages([stage.snapshot()]))
    outage.answered(0.0, went_first=True)
    display.tick()
    waits = "waiting for the draft's engine, 8:55 of patience left"
    assert file.getvalue().splitlines()[1] == f"atts: 5/10 in 1:05, {waits}, 0.0/s, 5 waiting"
    assert file.getvalue().splitlines()[-1] == "atts: 5/10 in 1:05, 0.0/s, 5:25 left, 5 waiting"
    assert "waiting for the draft" in file.getvalue().splitlines()[2]


def test_a_stage_with_nothing_to_do_is_shown() -> None:
    console, file = plain()
    display = Display(console)
    display.stage("atts").started(total=3, done=3)
    display.tick()
    assert file.getvalue() == "atts: 3 chains, 3 of them done before\n"


def test_grading_is_shown_after_the_chains(clock: Clock) -> None:
    console, file = plain()
    display = Display(console)
    stage = display.stage("atts")
    stage.started(total=1, done=0)
    clock.now += 1
    stage.chain_done(chain())
    clock.now += 10
    stage.grading(3, 20)
    display.tick()
    stage.grading(20, 20)
    display.tick()
    assert file.getvalue().splitlines()[2:] == ["atts: 1/1 in 0:01, grading 3/20, 1.0/s"]


def test_a_stage_name_and_a_warning_are_printed_as_they_stand() -> None:
    console, file = plain()
    stage = Display(console).stage("[red]\x1b[2J")
    stage.started(total=1, done=0)
    stage.warned(":smile: \x07")
    assert file.getvalue().splitlines() == [
        "[red]\\x1b[2J: 1 chains",
        "[red]\\x1b[2J: :smile: \\x07",
    ]


def test_json_is_an_object_a_line(clock: Clock) -> None:
    console, file = plain()
    display = Display(console, as_json=True)
    stage = display.stage("atts\x1b")
    stage.started(total=100, done=10)
    clock.now += 5
    work(stage)
    stage.activity.in_flight = 33
    stage.chain_done(chain(failed=True))
    stage.activity.written["target"] += 5
    display.tick()
    stage.warned("drift\x1b")
    assert "\x1b" not in file.getvalue()
    told: list[dict[str, Any]] = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [each["event"] for each in told] == ["started", "progress", "warning"]
    assert {each["stage"] for each in told} == {"atts\x1b"}
    assert told[1] == {
        "event": "progress",
        "stage": "atts\x1b",
        "seconds": 5.0,
        "seconds_left": 445.0,
        "chains": {
            "total": 100,
            "failed": 1,
            "not_needed": 0,
            "waiting": 56,
            "drafting": 20,
            "scoring": 2,
            "target_writing": 8,
            "waiting_for_others": 3,
            "done": 11,
        },
        "turns": 4,
        "take_over": {"nominal": 0.4, "now": 0.5, "so_far": 0.5, "decisions": 4},
        "tokens_per_second": {"draft": 0.0, "target": 1.0},
        "graded": None,
        "waits_for": {},
    }
    assert told[2]["message"] == "drift\x1b"


# --- in a terminal --------------------------------------------------------------------------


def terminal() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=100, force_terminal=True, color_system=None), file


def last_lines(file: io.StringIO, count: int) -> list[list[str]]:
    """The words of the last lines, without what moves the cursor."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    return [line.split() for line in text.splitlines() if line.strip()][-count:]


def test_a_terminal_shows_a_line_per_stage() -> None:
    console, file = terminal()
    with Display(console) as display:
        for name in ("draft-only", "[red]atts\x07"):
            stage = display.stage(name)
            stage.started(total=2, done=1)
            stage.activity.decided(take_over=True)
            stage.chain_done(chain())
        stage.warned("the scores have drifted")
    shown = file.getvalue()
    assert "the scores have drifted" in shown
    assert "\x07" not in shown
    first, second = last_lines(file, 2)
    assert first[:3] == ["draft-only", "█" * 24, "2/2"]
    assert second[:3] == ["[red]atts\\x07", "█" * 24, "2/2"]
    assert second[-2:] == ["take-over", "1.00"]


@pytest.mark.parametrize("width", [100, 40])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_present_stage_has_details(width: int, ascii_only: bool) -> None:
    stage = Display(plain()[0]).stage("atts")
    stage.started(total=48, done=12)
    work(stage)
    console = Console(file=io.StringIO(), width=width)
    console.print(stages([stage.snapshot()], ascii_only))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    # 12 of 48 chains are a quarter of the bar.
    assert ("######TTTTs" if ascii_only else "██████▓▓▓▓▒") in lines[0]
    assert lines[0].isascii() == ascii_only or width < 100
    if width == 100:
        done = "#" if ascii_only else "█"
        assert lines[1].startswith(f"  chains     {done} 12 done  ")
        assert "8 target writing" in lines[1]
        assert "6 waiting" in lines[1]
        assert lines[2].strip() == "take-over  0.50 now, 0.50 so far, nominal 0.4"
        assert lines[3].strip() == "tokens/s   -      turns 4"


def test_more_stages_than_lines_show_the_last_ones() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=9, force_terminal=True, color_system=None)
    with Display(console) as display:
        for number in range(20):
            display.stage(f"run{number}").started(total=1, done=1)
    names = [line[0] for line in last_lines(file, 4)]
    assert names == ["run16", "run17", "run18", "run19"]
    assert "..." not in file.getvalue()  # as rich cuts what is too long
