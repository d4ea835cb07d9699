"""The reference implementation's result folders: a file ``problem_XXXX.json`` for each chain.

Number XXXX is that of the problem times the chains per problem, plus that of the chain. A file
holds the question (for multiple choice a list: question, right choice, wrong choices), what the
models wrote turn by turn, the perplexities with their percentiles among the calibration's, the
final answer, and the seconds that the chain took.

What such a file does not say is 0 in an imported run: numbers of tokens, times of requests. The
p-value is 1 - percentile, the share of calibration scores at or above the segment's. The reference
puts a blank line between two segments of a chain; so does the imported text.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atts.errors import StoreError
from atts.types import LETTERS, Author, Chain, Decision, Problem, Segment, Timings, Turn

INVALID = "invalid"
"""The final answer of a chain that has none."""

_FILE = re.compile(r"problem_(\d{1,9})\.json")
_SETTINGS = re.compile(
    r"_sm(?P<draft>\d+)_em(?P<target>\d+)_t(?P<turns>\d+)_smt(?P<temperature>[\d.]+?)(?:_|$)"
)
_BETWEEN = "\n\n"
_AUTHORS: Mapping[str, Author] = {"small": "draft", "eval_generate": "target"}
_UNKNOWN = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


class Imported(NamedTuple):
    """The content of a folder."""

    problems: list[Problem]
    chains: list[Chain]
    samples: int


def read_settings(folder: Path) -> dict[str, Any]:
    """What the folder's name says of the configuration, as a tree; empty if it says nothing.

    >>> read_settings(Path("A_B_math500_sm500_em400_t15_smt0.8_sct0.8_emt0.8_smc16_emc4"))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'turns': {'draft_tokens': 500, 'target_tokens': 400, 'max_turns': 15},
     'sampling': {'temperature': 0.8}}
    """
    match = _SETTINGS.search(folder.resolve().name)
    if not match:
        return {}
    return {
        "turns": {
            "draft_tokens": int(match["draft"]),
            "target_tokens": int(match["target"]),
            "max_turns": int(match["turns"]),
        },
        "sampling": {"temperature": float(match["temperature"])},
    }


def read_folder(
    folder: Path, known: Sequence[Problem] = (), samples: int | None = None
) -> Imported:
    """Read a result folder.

    Args:
        folder: holds the files; other files are passed over.
        known: problems, of which those with the folder's questions give id and gold answer. Not
            needed for multiple choice, whose files hold the right choice.
        samples: chains per problem; None finds it out from the questions.

    Raises:
        StoreError: a file is missing, corrupt, or of another format, a question has no gold
            answer, or the files of one problem ask different questions.
    """
    files = _files(folder)
    questions = {number: _question(content, path) for number, (path, content) in files.items()}
    samples = samples or _samples(questions)
    golds = {_normal(problem.question): problem for problem in known}
    problems: dict[int, Problem] = {}
    chains = []
    for number, (path, content) in sorted(files.items()):
        place, sample = divmod(number, samples)
        if place not in problems:
            problems[place] = _problem(place, questions[number], golds, path)
            first = number
        if questions[number] != questions[first]:
            raise StoreError(
                f"{path} asks another question than {files[first][0].name}, but both belong to "
                f"problem {place} if there are {samples} chains per problem; set --samples"
            )
        chains.append(_chain(problems[place].id, sample, content, path))
    return Imported(list(problems.values()), chains, samples)


def write_folder(
    problems: Sequence[Problem],
    chains: Iterable[Chain],
    samples: int,
    write: Callable[[str, str], None],
) -> int:
    """Write a run as a result folder, by a function that takes a file's name and its text.

    Returns:
        The number of files; chains that failed or were not needed get none, because the format
        knows of none.
    """
    places = {problem.id: place for place, problem in enumerate(problems)}
    count = 0
    for chain in chains:
        if not chain.is_finished:
            continue
        place = places[chain.problem_id]
        number = place * samples + chain.sample
        content = {
            "problem_index": number,
            "final_answer": chain.answer if chain.answer is not None else INVALID,
            "duration_seconds": chain.seconds,
            "full_history": _history(chain),
            "question": _shown_question(problems[place]),
        }
        write(f"problem_{number:04}.json", json.dumps(content, indent=4) + "\n")
        count += 1
    return count


def _files(folder: Path) -> dict[int, tuple[Path, Mapping[str, Any]]]:
    files: dict[int, tuple[Path, Mapping[str, Any]]] = {}
    try:
        for path in folder.iterdir():
            if match := _FILE.fullmatch(path.name):
                try:
                    content = json.loads(path.read_bytes())
                    # Half of a surrogate pair is no text, and could not be written again.
                    json.dumps(content, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    raise StoreError(f"{path} is not valid JSON: {error}") from None
                if not isinstance(content, dict):
                    raise StoreError(f"{path} is a JSON {type(content).__name__}, not an object")
                files[int(match[1])] = (path, content)
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror or error}") from error
    if not files:
        raise StoreError(f"{folder} holds no problem_XXXX.json; is it a result folder?")
    return files


def _question(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The question, and the choices if there are any: the right one first."""
    question = content.get("question")
    parts = [question] if isinstance(question, str) else question
    if (
        not isinstance(parts, list)
        or not parts
        or len(parts) == 2
        or not all(isinstance(part, str) and part.strip() for part in parts)
    ):
        raise StoreError(f"{path}: 'question' must be a text, or a list of a text and choices")
    return tuple(parts)


def _samples(questions: Mapping[int, tuple[str, ...]]) -> int:
    """The longest run of files about one question, from the first: every problem has as many."""
    longest, run, before = 0, 0, None
    for number in sorted(questions):
        run = run + 1 if questions[number] == before else 1
        before = questions[number]
        longest = max(longest, run)
    return longest


def _problem(
    place: int, question: tuple[str, ...], golds: Mapping[str, Problem], path: Path
) -> Problem:
    text, *choices = question
    known = golds.get(_normal(text))
    if choices:
        problem_id = known.id if known else f"problem-{place}"
        # As the reference shows them: the right one is always A.
        return Problem(id=problem_id, question=text, answer="A", choices=tuple(choices))
    if known is None:
        raise StoreError(
            f"{path}: there is no gold answer for its question, {text[:60]!r}...; name the problem "
            "set or file that has it by --problems"
        )
    return known.model_copy(update={"question": text})


def _normal(question: str) -> str:
    return " ".join(question.split())


def _chain(problem_id: str, sample: int, content: Mapping[str, Any], path: Path) -> Chain:
    answer, seconds = content.get("final_answer"), content.get("duration_seconds", 0.0)
    history = content.get("full_history")
    if not isinstance(answer, str | None) or not isinstance(history, list):
        raise StoreError(f"{path}: it has no 'final_answer' or no 'full_history'")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise StoreError(f"{path}: 'duration_seconds' must be a number, got {seconds!r}")
    found = None if answer is None or answer == INVALID or not answer.strip() else answer
    try:
        turns = _turns(history)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: 'full_history' is not as expected: {type(error).__name__}: {error}"
        ) from None
    return Chain(
        problem_id=problem_id,
        sample=sample,
        end="answer" if found else "turns",
        answer=found,
        turns=turns,
        started=0.0,
        done=float(seconds),
    )


def _turns(history: Sequence[Mapping[str, Any]]) -> tuple[Turn, ...]:
    segments: dict[int, list[Segment]] = {}
    scores: dict[int, Mapping[str, Any]] = {}
    anything = False
    for entry in history:
        number = int(entry["turn"])
        written = segments.setdefault(number, [])
        if entry["model"] == "eval_ppl":
            scores[number] = entry
            continue
        text = str(entry["output"] or "")
        written.append(
            Segment(
                author=_AUTHORS[entry["model"]],
                text=_BETWEEN + text if anything else text,
                tokens=0,
                finish_reason="length",
                cached_tokens=0,
                timings=_UNKNOWN,
            )
        )
        anything = True
    return tuple(
        Turn(segments=tuple(written), decision=_decision(scores.get(number), written))
        for number, written in sorted(segments.items())
    )


def _decision(entry: Mapping[str, Any] | None, written: Sequence[Segment]) -> Decision | None:
    """None where the reference had no log-probabilities: it writes a perplexity of 0 then."""
    if entry is None:
        return None
    perplexity, percentile = float(entry["ppl"]), float(entry["percentile"])
    if not (0.0 < perplexity < math.inf and 0.0 <= percentile <= 1.0):
        return None
    return Decision(
        score=math.log(perplexity),
        p_value=1.0 - percentile,
        take_over=any(segment.author == "target" for segment in written),
        scored_tokens=0,
        cached_tokens=0,
        timings=_UNKNOWN,
    )


def _history(chain: Chain) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = []
    for number, turn in enumerate(chain.turns):
        for segment in turn.segments:
            if segment.kept:
                name = "small" if segment.author == "draft" else "eval_generate"
                text = segment.text.removeprefix(_BETWEEN) if history else segment.text
                history.append({"turn": number, "model": name, "output": text})
            if segment.author == "draft" and turn.decision:
                history.append(
                    {
                        "turn": number,
                        "model": "eval_ppl",
                        "ppl": math.exp(turn.decision.score),
                        "percentile": 1.0 - turn.decision.p_value,
                    }
                )
    return history


def _shown_question(problem: Problem) -> str | list[str]:
    if not problem.choices:
        return problem.question
    right = LETTERS.find(problem.answer) if len(problem.answer) == 1 else -1
    choices = list(problem.choices)
    if 0 <= right < len(choices):
        choices.insert(0, choices.pop(right))
    return [problem.question, *choices]
