"""The chains of runs as data inside the page.

A listing holds every chain in a few numbers, so that the list can be filtered at once. The texts
are compressed, a problem at a time, and unpacked by the browser when a chain is opened: a page with
many chains stays small and opens fast.
"""

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from atts.analysis.report import RunReport
from atts.config import PromptOptions
from atts.errors import ConfigError
from atts.models.prompts import messages
from atts.text import visible
from atts.types import Chain, Decision, Problem, Segment

_SHOWN = 90
"""Characters of a question in the list."""

_MOST = 99.99
"""The largest surprise that the page holds, in nats: JSON has no infinity."""


class Packed(NamedTuple):
    """What the page holds of the chains."""

    listing: str
    """JSON, safe inside a script element."""
    texts: list[tuple[str, str]]
    """The id of a script element, and its content: base64 of gzip of JSON."""


def pack(runs: Sequence[RunReport]) -> Packed:
    """The chains of runs, the problems of each in the order of their ids."""
    texts: list[tuple[str, str]] = []
    problems: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)  # run -> element
    rows = []
    numbers: dict[tuple[str, str], int] = {}
    for number, run in enumerate(runs):
        chains: dict[str, list[Chain]] = defaultdict(list)
        for chain in sorted(run.run.chains, key=lambda chain: chain.key):
            chains[chain.problem_id].append(chain)
        by_id = {problem.id: problem for problem in run.run.problems}
        for index, (problem_id, of_problem) in enumerate(sorted(chains.items())):
            problem = by_id[problem_id]
            key = (problem_id, problem.question)  # two sets may give an id to two questions
            element = f"text-{number}-{index}"
            problems[key][number] = element
            place = numbers.setdefault(key, len(numbers))
            rows += [[number, place, *_listed(run, chain)] for chain in of_problem]
            content = {
                **_asked(problem, run.run.config.prompt),
                "chains": [_content(chain) for chain in of_problem],
            }
            texts.append((element, _compressed(content)))
    listed = {
        "runs": [
            {
                "name": visible(run.name),
                "address": address,
                "method": run.summary.method,
                # What a score is the logarithm of.
                "perplexity": run.run.config.take_over.score.kind == "mean",
            }
            for run, address in zip(runs, _addresses(runs), strict=True)
        ],
        "problems": [
            [visible(problem_id), visible(question[:_SHOWN]), elements]
            for (problem_id, question), elements in problems.items()
        ],
        "chains": rows,
    }
    return Packed(script_safe(listed), texts)


def _addresses(runs: Sequence[RunReport]) -> list[str]:
    """What runs are called in addresses of chains: the same in whatever report they are."""
    folders = [run.directory.resolve() for run in runs]
    names = [visible(folder.name) for folder in folders]
    return [
        name if names.count(name) == 1 else visible(str(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def _asked(problem: Problem, options: PromptOptions) -> dict[str, Any]:
    """The question, what is right, and the messages that both models are shown."""
    try:
        prompt = messages(problem, options)
    except ConfigError:  # an imported problem may have more choices than letters
        prompt = []
    return {
        "question": visible(problem.question),
        "choices": list(map(visible, problem.choices)),
        "gold": None if problem.answer is None else visible(problem.answer),
        "tested": problem.tests is not None,
        "prompt": [[each.role, visible(each.content)] for each in prompt],
    }


def script_safe(content: object) -> str:
    r"""JSON that cannot end the script element that it stands in, nor begin a comment there.

    >>> script_safe("</script><!--")
    '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII only
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _listed(run: RunReport, chain: Chain) -> Iterator[Any]:
    """A row of the listing, after the numbers of its run and of its problem."""
    answer = run.graded.verdicts[chain.key].answer
    yield chain.sample
    yield run.graded.verdicts[chain.key].outcome
    yield None if answer is None else visible(answer)
    yield len(chain.turns)
    yield chain.take_overs
    yield chain.written("draft")
    yield chain.written("target")
    yield round(chain.seconds, 2)


def _content(chain: Chain) -> dict[str, Any]:
    return {
        "end": chain.end,
        "error": None if chain.error is None else visible(chain.error),
        "turns": [
            {
                "segments": list(map(_segment, turn.segments)),
                "decision": _decision(turn.decision) if turn.decision else None,
                "waited": round(turn.waited_seconds, 3),
            }
            for turn in chain.turns
        ],
    }


def _segment(segment: Segment) -> list[Any]:
    """What was cut off stands at the end, where there is any."""
    shown = [segment.author, segment.kept, segment.tokens, visible(segment.text)]
    if segment.cut:
        shown += [visible(segment.cut), segment.cut_tokens]
    return shown


def _decision(decision: Decision) -> list[Any]:
    """Surprises stand at the end, where there are any, in hundredths of a nat, and behind them of
    how many tokens they are the first: others may have come with the segment, and been cut off.
    """
    shown: list[Any] = [
        "none: it passed unscored" if decision.passed else _number(decision.score),
        _number(decision.p_value),
        None if decision.threshold is None else _number(decision.threshold),
        decision.take_over,
    ]
    if decision.surprises:
        shown.append([round(100 * max(-_MOST, min(_MOST, nats))) for nats in decision.surprises])
        shown.append(max(decision.scored_tokens, len(decision.surprises)))
    return shown


def _number(value: float) -> float | str:
    """Six digits, or a word: JSON has no infinity."""
    rounded = float(f"{value:.6g}")
    return rounded if abs(rounded) != float("inf") and rounded == rounded else str(value)


def _compressed(content: object) -> str:
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    # No time of day in it: the same run gives the same page.
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()
