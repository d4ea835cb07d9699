"""The reference implementation's result folders: a file ``problem_XXXX.json`` for each chain.

Number XXXX is that of the problem times the chains per problem, plus that of the chain. A file
holds the question (for multiple choice a list: question, right choice, wrong choices), what the
models wrote turn by turn, the perplexities with their percentiles among the calibration's, the
final answer, and the seconds that the chain took. Scripts with a single model write several
attempts a turn, of which one is kept, and may go on from the text of another chain (fork).

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
from atts.files import read_plain
from atts.text import shortened
from atts.types import LETTERS, Author, Chain, Decision, Problem, Segment, Timings, Turn

INVALID = "invalid"
"""The final answer of a chain that has none."""

_FILE = re.compile(r"problem_(\d{1,9})\.json")
_SETTINGS = re.compile(
    r"_sm(?P<draft>\d+)_em(?P<target>\d+)_t(?P<turns>\d+)_smt(?P<temperature>[\d.]+?)(?:_|$)"
)
_BETWEEN = "\n\n"
_LONGEST = 1e9
"""Seconds of a chain."""
_MOST_FORKS = 50
_AUTHORS: Mapping[str, Author] = {
    "small": "draft",
    "eval_generate": "target",
    # Of the scripts with a single model, which judges itself:
    "draft": "draft",
    "self_continue": "target",
}
_SCORERS = {"eval_ppl", "self_ppl"}
_UNKNOWN = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


Entry = Mapping[str, Any]
Files = Mapping[int, tuple[Path, Entry]]
"""Number of a file -> its path and its content."""


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
    for number, (path, _) in sorted(files.items()):
        position, sample = divmod(number, samples)
        if position not in problems:
            problems[position] = _problem(position, questions[number], golds, path)
            first = number
        if questions[number] != questions[first]:
            raise StoreError(
                f"{path} asks another question than {files[first][0].name}, but both belong to "
                f"problem {position} if there are {samples} chains per problem; set --samples"
            )
        chains.append(_chain(problems[position].id, sample, number, files))
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
    positions = {problem.id: position for position, problem in enumerate(problems)}
    count = 0
    for chain in chains:
        if not chain.is_finished:
            continue
        position = positions[chain.problem_id]
        number = position * samples + chain.sample
        content = {
            "problem_index": number,
            "final_answer": chain.answer if chain.answer is not None else INVALID,
            "duration_seconds": chain.seconds,
            "full_history": _history(chain),
            "question": _shown_question(problems[position]),
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
                    content = json.loads(read_plain(path))
                    # Half of a surrogate pair is no text, and could not be written again.
                    json.dumps(content, ensure_ascii=False).encode()
                except (ValueError, RecursionError) as error:
                    raise StoreError(f"{path} is not valid JSON: {shortened(str(error))}") from None
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
    position: int, question: tuple[str, ...], golds: Mapping[str, Problem], path: Path
) -> Problem:
    text, *choices = question
    known = golds.get(_normal(text))
    if choices:
        problem_id = known.id if known else f"problem-{position}"
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


def _chain(problem_id: str, sample: int, number: int, files: Files) -> Chain:
    path, content = files[number]
    answer, seconds = content.get("final_answer"), content.get("duration_seconds", 0.0)
    history = content.get("full_history")
    if not isinstance(answer, str | None) or not isinstance(history, list):
        raise StoreError(f"{path}: it has no 'final_answer' or no 'full_history'")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise StoreError(f"{path}: 'duration_seconds' must be a number of seconds")
    found = None if answer is None or answer == INVALID or not answer.strip() else answer
    try:
        turns = _turns(history, files)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StoreError(
            f"{path}: 'full_history' is not as expected: {type(error).__name__}: "
            f"{shortened(str(error))}. Known "
            f"are entries of the models {', '.join(sorted(_AUTHORS.keys() | _SCORERS))}, entries "
            "with attempt and accepted, and the event fork"
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


def _turns(history: Sequence[Entry], files: Files) -> tuple[Turn, ...]:
    turns: list[list[Segment]] = []
    scores: list[Entry | None] = []
    for entries in _by_turn(history).values():
        before = any(each.kept for turn in turns for each in turn)
        chosen = _chosen(entries)
        written = _segments(entries, chosen, before)
        fork = next((entry for entry in entries if "event" in entry), None)
        if fork is not None:
            # From here on the chain goes on from another one's text; its own is thrown away.
            taken = _text_of(int(fork["forked_from"]), int(fork["peer_turn"]), files, 0)
            turns = [[_dropped(each) for each in turn] for turn in turns]
            written = [*map(_dropped, written), _segment("draft", taken)]
        turns.append(written)
        scorer = next((entry for entry in entries if entry.get("model") in _SCORERS), None)
        scores.append(None if fork is not None else (scorer or chosen))
    return tuple(
        Turn(segments=tuple(written), decision=_decision(score, written))
        for score, written in zip(scores, turns, strict=True)
    )


def _by_turn(history: Sequence[Entry]) -> dict[int, list[Entry]]:
    turns: dict[int, list[Entry]] = {}
    for entry in history:
        if "event" in entry and entry["event"] != "fork":
            raise ValueError(f"the event {entry['event']!r}")
        if "event" not in entry and entry["model"] not in _AUTHORS.keys() | _SCORERS:
            raise ValueError(f"the model {entry['model']!r}")
        turns.setdefault(int(entry["turn"]), []).append(entry)
    return dict(sorted(turns.items()))


def _chosen(entries: Sequence[Entry]) -> Entry | None:
    """Of several attempts the one that was accepted, or else the least surprising one; None where
    there are no attempts, or where the chain went on from another's text.
    """
    attempts = [entry for entry in entries if "attempt" in entry or "accepted" in entry]
    if not attempts or any("event" in entry for entry in entries):
        return None
    accepted = [entry for entry in attempts if entry.get("accepted")]
    return accepted[-1] if accepted else min(attempts, key=lambda entry: float(entry["ppl"]))


def _segments(entries: Sequence[Entry], chosen: Entry | None, before: bool) -> list[Segment]:
    """What was written in a turn; attempts that were not chosen are not kept."""
    written = []
    for entry in entries:
        if entry.get("model") not in _AUTHORS:
            continue
        is_attempt = "attempt" in entry or "accepted" in entry
        text = str(entry["output"] or "")
        segment = _segment(_AUTHORS[entry["model"]], _BETWEEN + text if before else text)
        if is_attempt and entry is not chosen:
            segment = _dropped(segment)
        else:
            before = True
        written.append(segment)
    return written


def _text_of(number: int, until: int, files: Files, depth: int) -> str:
    """What a chain had written before a turn, where another one went on from it."""
    if number not in files:
        raise ValueError(f"a fork from problem_{number:04}.json, which is not in the folder")
    if depth > _MOST_FORKS:
        raise ValueError("forks that go round in a circle")
    turns = _by_turn(files[number][1]["full_history"])
    before = [entries for turn, entries in turns.items() if turn < until]
    forks = [next((each for each in entries if "event" in each), None) for entries in before]
    text = ""
    # What stood before the last fork was thrown away, and may be long in coming together.
    last = max((at for at, fork in enumerate(forks) if fork), default=0)
    for fork, entries in zip(forks[last:], before[last:], strict=True):
        if fork is not None:
            text = _text_of(int(fork["forked_from"]), int(fork["peer_turn"]), files, depth + 1)
        written = _segments(entries, _chosen(entries), bool(text))
        text += "".join(each.text for each in written if each.kept)
    return text


def _segment(author: Author, text: str) -> Segment:
    return Segment(
        author=author,
        text=text,
        tokens=0,
        finish_reason="length",
        cached_tokens=0,
        timings=_UNKNOWN,
    )


def _dropped(segment: Segment) -> Segment:
    return segment.model_copy(update={"kept": False})


def _decision(entry: Entry | None, written: Sequence[Segment]) -> Decision | None:
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
                        "ppl": _perplexity(turn.decision.score),
                        "percentile": 1.0 - turn.decision.p_value,
                    }
                )
    return history


def _perplexity(score: float) -> float:
    try:
        return math.exp(score)
    except OverflowError:
        return math.inf


def _shown_question(problem: Problem) -> str | list[str]:
    if not problem.choices:
        return problem.question
    right = LETTERS.find(problem.answer) if problem.answer and len(problem.answer) == 1 else -1
    choices = list(problem.choices)
    if 0 <= right < len(choices):
        choices.insert(0, choices.pop(right))
    return [problem.question, *choices]
