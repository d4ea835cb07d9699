"""A trace is as the Trace Event Format has it: ordered, nested, and a lane a chain."""

import json
from collections import defaultdict
from typing import Any

from timed_runs import MakeRun, chain, decision, segment

from atts.reports.chrome_trace import chrome_trace
from atts.types import Chain, Turn

HOSTILE = '</script>\x1b[31m"\u202e'


def make_chain(problem: str, sample: int, started: float) -> Chain:
    """Two turns; times that no binary fraction holds exactly."""
    at = 1000.1 + started
    turns = [
        Turn(
            segments=(
                segment("draft", (begin, begin + 0.1, begin + 0.2, begin + 0.7)),
                segment("target", (begin + 1.1, begin + 1.2, begin + 1.3, begin + 1.9)),
            ),
            decision=decision((begin + 0.7, begin + 0.8, begin + 0.9, begin + 0.9), take_over=True),
        )
        for begin in (at, at + 2.3)
    ]
    return chain(turns, started, started + 4.3, problem, sample)


def events_of(make_run: MakeRun) -> list[dict[str, Any]]:
    chains = [make_chain("a", 0, 0.0), make_chain("a", 1, 0.1), make_chain(HOSTILE, 0, 0.30001)]
    run = make_run(chains)
    trace = json.loads(chrome_trace([("one", run), ("two", run)]))
    assert set(trace) == {"displayTimeUnit", "traceEvents"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    events: list[dict[str, Any]] = trace["traceEvents"]
    return events


def test_every_event_has_what_its_kind_needs(make_run: MakeRun) -> None:
    for event in events_of(make_run):
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ph"] in ("X", "M", "C")
        if event["ph"] != "M":
            assert isinstance(event["ts"], int)
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], int)
            assert event["dur"] >= 0
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert event["args"]["name"]


def test_events_are_ordered_and_nested(make_run: MakeRun) -> None:
    events = [event for event in events_of(make_run) if event["ph"] != "M"]
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    open_until: dict[int, list[int]] = defaultdict(list)
    depths = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            stack = open_until[event["tid"]]
            while stack and stack[-1] <= event["ts"]:
                stack.pop()
            end = event["ts"] + event["dur"]
            assert not stack or end <= stack[-1], event
            stack.append(end)
            depths[event["cat"]].append(len(stack))
    assert {category: set(found) for category, found in depths.items()} == {
        "chain": {1},
        "turn": {2},
        "phase": {3},
    }


def test_every_chain_is_a_lane_of_its_problem(make_run: MakeRun) -> None:
    events = events_of(make_run)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert len({tid for _, tid in lanes}) == len(lanes) == 6
    assert {(names[pid], name) for (pid, _), name in lanes.items()} == {
        (f"{run}: problem {problem}", f"chain {sample}")
        for run in ("one", "two")
        for problem, sample in (
            ("a", 0),
            ("a", 1),
            ('</script>\\x1b[31m"\\u202e', 0),
        )
    }
    chains = [e for e in events if e.get("cat") == "chain"]
    assert {(e["pid"], e["tid"]) for e in chains} == set(lanes)


def test_the_phases_fill_the_chain(make_run: MakeRun) -> None:
    events = events_of(make_run)
    for lane in {e["tid"] for e in events if e.get("cat") == "chain"}:
        (whole,) = [e for e in events if e["tid"] == lane and e.get("cat") == "chain"]
        phases = [e for e in events if e["tid"] == lane and e.get("cat") == "phase"]
        assert sum(e["dur"] for e in phases) == whole["dur"]
        turns = [e for e in events if e["tid"] == lane and e.get("cat") == "turn"]
        assert [turn["args"]["target tokens"] for turn in turns] == [10, 10]
        assert all(turn["args"]["take-over"] for turn in turns)


def test_the_counter_is_the_number_of_chains_in_flight(make_run: MakeRun) -> None:
    counters = [e for e in events_of(make_run) if e["ph"] == "C" and e["pid"] == 1]
    assert [e["args"]["chains"] for e in counters] == [1, 2, 3, 2, 1, 0]


def test_a_chain_without_times_is_one_bar(make_run: MakeRun) -> None:
    imported = chain([Turn(segments=(segment("draft", (0, 0, 0, 0)),))], 0.0, 9.0)
    events = json.loads(chrome_trace([("run", make_run([imported]))]))["traceEvents"]
    assert [(e["cat"], e["dur"]) for e in events if e["ph"] == "X"] == [("chain", 9_000_000)]
