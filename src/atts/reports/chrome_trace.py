"""Runs in the Chrome trace format, which Perfetto (https://ui.perfetto.dev) shows as lanes.

The format: *Trace Event Format*, a JSON object with a list of events; times are microseconds. A
problem is a process, a chain is a thread of it, and on the thread lie three levels of complete
events (``X``): the chain, its turns, and in each turn the phases. What a run had in flight are
counters (``C``) of a process of its own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from atts.analysis.spans import Span, offsets, spans
from atts.store.run_directory import RecordedRun
from atts.text import visible
from atts.types import Chain, Turn

Event = dict[str, Any]


def chrome_trace(runs: Sequence[tuple[str, RecordedRun]]) -> str:
    """The JSON text of a trace of runs, each with its name; each begins at 0.

    Events are ordered by time, and one that holds others comes before them.
    """
    names: list[Event] = []
    events: list[Event] = []
    processes, threads = count(1), count(1)
    for run_name, run in runs:
        zeros = offsets(run.chains)
        pid = next(processes)
        names.append(_name("process_name", pid, 0, f"{run_name}: in flight"))
        events += _counters(pid, run.chains)
        pids: dict[str, int] = {}
        for chain in sorted(run.chains, key=lambda chain: chain.key):
            if chain.problem_id not in pids:
                pids[chain.problem_id] = next(processes)
                label = f"{run_name}: problem {chain.problem_id}"
                names.append(_name("process_name", pids[chain.problem_id], 0, label))
            tid = next(threads)
            names.append(_name("thread_name", pids[chain.problem_id], tid, f"chain {chain.sample}"))
            of_chain = list(spans(chain, zeros[chain.key])) if chain.key in zeros else []
            events += [
                {**event, "pid": pids[chain.problem_id], "tid": tid}
                for event in _lane(chain, of_chain)
            ]
    events.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
    content = {"displayTimeUnit": "ms", "traceEvents": names + events}
    return json.dumps(content, separators=(",", ":")) + "\n"


def _lane(chain: Chain, of_chain: Sequence[Span]) -> Iterator[Event]:
    """The events of a chain, the outer before the inner."""
    begin, end = _microseconds(chain.started), _microseconds(chain.done)
    facts = {"end": chain.end, "answer": None if chain.answer is None else visible(chain.answer)}
    if chain.error:
        facts["error"] = visible(chain.error)
    yield _complete(f"chain {chain.sample}: {chain.end}", "chain", begin, end, facts)
    by_turn: dict[int, list[Span]] = {}
    for span in of_chain:
        by_turn.setdefault(span.turn, []).append(span)
    for number, in_turn in by_turn.items():
        yield _complete(
            f"turn {number}",
            "turn",
            _microseconds(in_turn[0].begin),
            _microseconds(in_turn[-1].end),
            _turn_facts(chain.turns[number]) if number < len(chain.turns) else {},
        )
        for span in in_turn:
            begin, end = _microseconds(span.begin), _microseconds(span.end)
            if end > begin:  # one without a length would lie inside its neighbour
                yield _complete(span.phase, "phase", begin, end, {})


def _turn_facts(turn: Turn) -> Mapping[str, Any]:
    facts: dict[str, Any] = {}
    for author in dict.fromkeys(segment.author for segment in turn.segments):
        facts[f"{author} tokens"] = turn.written(author)
    if turn.decision:
        facts |= {
            "score": "not scored" if turn.decision.passed else turn.decision.score,
            "p-value": turn.decision.p_value,
            "threshold": turn.decision.threshold,
            "take-over": turn.decision.take_over,
        }
    return facts


def _counters(pid: int, chains: Sequence[Chain]) -> Iterator[Event]:
    """How many chains were in flight, whenever that changed."""
    changes: dict[int, int] = {}
    for chain in chains:
        for moment, change in ((chain.started, 1), (chain.done, -1)):
            at = _microseconds(moment)
            changes[at] = changes.get(at, 0) + change
    now = 0
    for at, change in sorted(changes.items()):
        now += change
        yield {"ph": "C", "name": "chains", "pid": pid, "tid": 0, "ts": at, "args": {"chains": now}}


def _complete(name: str, category: str, begin: int, end: int, facts: Mapping[str, Any]) -> Event:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": begin,
        "dur": end - begin,
        "args": dict(facts),
    }


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": visible(name)}}


def _microseconds(seconds: float) -> int:
    """Whole ones, so that what begins where another ends does so exactly."""
    return round(seconds * 1e6)
