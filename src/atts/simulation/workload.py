"""What simulated chains do: recorded chains, turn by turn.

A simulated chain follows a recorded one: the draft's segments are as long, score as the recorded
ones did, and the answer comes in the recorded turn, whoever writes it. The decisions are its own:
where the target takes over and did not in the recording, its segment is as long as a recorded one
that is drawn from the take-overs of other chains.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple

from atts.analysis.recording import read_trace
from atts.config import Config
from atts.conformal.calibration import Calibration, ChainScores
from atts.errors import ConfigError, StoreError
from atts.methods import METHODS
from atts.models.model_files import model_path
from atts.models.prompts import Tokenizer, question
from atts.seeds import seed_at, uniform_at
from atts.simulation.engine import Script, ScriptTurn
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Chain, Problem

CHARACTERS_A_TOKEN = 3.15
"""Of a trace, which counts characters: English mathematics under tokenizers of some 130,000 ids."""
TRACE_SEGMENT = 500
"""Longest segment of the reference's traces, in tokens."""
TRACE_PROMPT = 150
"""Tokens of a prompt, where the recording does not hold the question."""
CUT_EXPONENT = 1.5
"""Where surprises are modelled, a segment of n tokens is cut before token n u^1.5, u uniform on
[0, 1): 0.4 of it stays in the mean. Of the segments that a real pair cut (Qwen2.5-Coder 0.5B and
1.5B, MATH-500, 48 tokens, largest surprise) 0.38 stayed at rate 0.4, and 0.40 at 0.7.
"""


class FollowedTurn(NamedTuple):
    draft_tokens: int
    """0 where the draft took no part."""
    target_tokens: int | None
    """None where the target did not take over."""
    score: float | None
    """None where the segment was not scored."""
    surprises: tuple[float, ...] = ()
    """Of each of the draft's tokens, where they were recorded."""
    scores: Mapping[str, float] = MappingProxyType({})
    """By every kind of score, where they were recorded."""

    def score_by(self, kind: str) -> float | None:
        """The score by a kind, as the played back log-probabilities have it."""
        return self.scores.get(kind, self.score) if self.surprises else self.score


class FollowedChain(NamedTuple):
    turns: tuple[FollowedTurn, ...]
    answer: str | None

    @property
    def tokens(self) -> int:
        """Tokens that both models wrote."""
        return sum(turn.draft_tokens + (turn.target_tokens or 0) for turn in self.turns)


class FollowedProblem(NamedTuple):
    id: str
    prompt_tokens: int
    chains: tuple[FollowedChain, ...]


class Workload:
    """Recorded chains to follow, by problem."""

    def __init__(
        self, name: str, problems: Sequence[FollowedProblem], models_cuts: bool = False
    ) -> None:
        """Where ``models_cuts``, a segment whose surprises were not recorded has its largest at a
        place that is drawn; see ``CUT_EXPONENT``.

        Raises:
            StoreError: there is no chain with a turn.
        """
        self.name = name
        self._models_cuts = models_cuts
        self.problems = [problem for problem in problems if any(c.turns for c in problem.chains)]
        if not self.problems:
            raise StoreError(f"{name} holds no chain that a simulation could follow")
        chains = [chain for problem in self.problems for chain in problem.chains if chain.turns]
        scores = [turn.score for chain in chains for turn in chain.turns if turn.score is not None]
        self._usual_score = median(scores) if scores else 1.0
        # The last segment of a chain is shorter than those before it.
        self._take_overs: dict[bool, list[int]] = {True: [], False: []}
        for chain in chains:
            for number, turn in enumerate(chain.turns, 1):
                if turn.target_tokens is not None:
                    self._take_overs[number == len(chain.turns)].append(turn.target_tokens)

    def problem(self, number: int) -> Problem:
        """The problem of this number; past the last recorded one they come again, as others."""
        copy, index = divmod(number, len(self.problems))
        name = self.problems[index].id
        return Problem(id=f"{name}#{copy + 1}" if copy else name, question="?", answer="?")

    def script(self, number: int, sample: int, config: Config, target_only_ratio: float) -> Script:
        """What a chain does under the configuration's method.

        A method of one model writes the whole chain in one piece: as many tokens as both models
        wrote in the recording, times ``target_only_ratio`` if the target writes alone.

        Raises:
            ConfigError: a recorded segment is longer than the configuration permits.
        """
        limits = config.turns
        if limits.draft_bounds != (limits.draft_tokens,) * 2 or limits.opening == "target":
            raise ConfigError(
                "turns.draft_tokens_min, draft_tokens_max and opening cannot be simulated: a "
                "recording does not say how chains go on after other segments than its own"
            )
        if limits.draft_segments > 1 or config.take_over.gate.share:
            raise ConfigError(
                "turns.draft_segments and take_over.gate cannot be simulated: a recording is "
                "followed one request after the other, each with its score"
            )
        problem = self.problems[number % len(self.problems)]
        chains = [chain for chain in problem.chains if chain.turns]
        chain = chains[sample % len(chains)]
        authors = METHODS[config.method].authors
        turns: tuple[ScriptTurn, ...]
        if len(authors) == 1:
            ratio = target_only_ratio if authors == ("target",) else 1.0
            tokens = max(1, round(chain.tokens * ratio))
            turns = (ScriptTurn(tokens, tokens, 0.0),)
        else:
            turns = tuple(
                self._turn(turn, count == len(chain.turns), config, (number, sample, count))
                for count, turn in enumerate(chain.turns, 1)
            )
        return Script(
            number=number * config.samples + sample,
            problem=number,
            prompt_tokens=max(2, problem.prompt_tokens),
            turns=turns,
            answer=chain.answer,
        )

    def _turn(
        self, turn: FollowedTurn, last: bool, config: Config, position: tuple[int, int, int]
    ) -> ScriptTurn:
        if turn.draft_tokens == 0:
            raise ConfigError(
                f"{self.name} has turns without a draft segment, so {config.method} cannot follow "
                "it; take the run of a method that drafts"
            )
        if turn.draft_tokens > config.turns.draft_tokens:
            raise ConfigError(
                f"{self.name} has a draft segment of {turn.draft_tokens} tokens, and "
                f"turns.draft_tokens is {config.turns.draft_tokens}: a recording does not say how "
                "chains go on after shorter ones; set it to that of the recording"
            )
        target_tokens = turn.target_tokens
        if target_tokens is None:
            others = self._take_overs[last] or self._take_overs[not last]
            drawn = seed_at(config.seed, "length of a take-over", *position)
            target_tokens = others[drawn % len(others)] if others else config.turns.target_tokens
        score = self._usual_score if turn.score is None else turn.score
        surprises = turn.surprises
        if config.take_over.mode == "rewind" and not surprises:
            surprises = self._modelled(turn.draft_tokens, score, config, position)
        alone = turn.draft_tokens + (turn.target_tokens or 0)
        return ScriptTurn(turn.draft_tokens, max(1, target_tokens), score, surprises, alone)

    def _modelled(
        self, tokens: int, score: float, config: Config, position: tuple[int, int, int]
    ) -> tuple[float, ...]:
        """Surprises of a segment of which only the score was recorded: nothing but its largest.

        Raises:
            ConfigError: they are not to be modelled, or other scores than the largest decide.
        """
        if not self._models_cuts:
            raise ConfigError(
                f"{self.name} does not say where the target was surprised, so "
                "take_over.mode=rewind cannot be simulated: take a run that was made with it, or "
                "with take_over.record_surprises=on, or have the cuts modelled (--model-cuts)"
            )
        if config.take_over.score.kind != "largest-surprise":
            raise ConfigError(
                "cuts can be modelled for take_over.score.kind=largest-surprise alone, not for "
                f"{config.take_over.score.kind}"
            )
        drawn = uniform_at(config.seed, "place of a cut", *position)
        place = int(tokens * drawn**CUT_EXPONENT)
        return tuple(score if token == place else 0.0 for token in range(tokens))

    def calibration(self, config: Config, problems: int) -> Calibration:
        """The recorded scores of all chains: of the very chains that are followed, so that the
        simulated take-over rate is the nominal one.
        """
        scores: dict[str, tuple[ChainScores, ...]] = {}
        for number in range(problems if config.take_over.coverage == "conditional" else 0):
            scores[self.problem(number).id] = self._scores(number % len(self.problems), config)
        for number, problem in enumerate(self.problems):
            scores[problem.id] = self._scores(number, config)
        return Calibration(
            version=2,
            fingerprint=config.calibration_fingerprint(),
            coverage=config.take_over.coverage,
            scores=scores,
        )

    def _scores(self, number: int, config: Config) -> tuple[ChainScores, ...]:
        def score(turn: FollowedTurn) -> float:
            found = turn.score_by(config.take_over.score.kind)
            return self._usual_score if found is None else found

        return tuple(
            tuple(map(score, chain.turns)) for chain in self.problems[number].chains if chain.turns
        )


def load_workload(path: Path, models_cuts: bool = False) -> Workload:
    """Read a run directory, or a trace: ``.jsonl`` or ``.jsonl.gz``, one line a chain.

    ``models_cuts``: see ``Workload``.

    Raises:
        StoreError: it cannot be read, or holds nothing to follow.
    """
    if path.is_dir():
        return _of_run(path, models_cuts)
    chains: dict[str, list[FollowedChain]] = defaultdict(list)
    for problem_id, chain in read_trace(path, _traced):
        chains[problem_id].append(chain)
    return Workload(
        path.name.split(".")[0],
        [FollowedProblem(name, TRACE_PROMPT, tuple(each)) for name, each in chains.items()],
        models_cuts,
    )


def _traced(tree: dict[str, Any]) -> tuple[str, FollowedChain]:
    """The problem and a chain of the reference, whose segments are counted in characters."""

    def tokens(characters: int) -> int:
        return min(TRACE_SEGMENT, max(1, round(characters / CHARACTERS_A_TOKEN)))

    turns = tuple(
        FollowedTurn(
            tokens(turn["draft_chars"]),
            tokens(turn["target_chars"]) if turn["rejected"] else None,
            None if turn["ppl"] is None else math.log(turn["ppl"]),
        )
        for turn in tree["turns"]
    )
    answer = tree["reextracted"]
    chain = FollowedChain(turns, None if answer is None else str(answer))
    return str(tree["question_id"]), chain


def _of_run(path: Path, models_cuts: bool) -> Workload:
    run = read_run(path)
    written = [segment for chain in run.chains for segment in chain.segments]
    tokens = sum(segment.tokens for segment in written)
    if written and not tokens:  # an imported folder has the texts alone
        rate = CHARACTERS_A_TOKEN
    else:
        rate = sum(len(segment.text) for segment in written) / max(tokens, 1)
    chains: dict[str, list[Chain]] = defaultdict(list)
    for chain in sorted(run.chains, key=lambda chain: chain.key):
        if chain.end != "failed":
            chains[chain.problem_id].append(chain)
    lengths = prompt_lengths(run, rate)
    return Workload(
        path.resolve().name,
        [
            FollowedProblem(
                problem.id,
                lengths[problem.id],
                tuple(_recorded(chain, rate) for chain in chains[problem.id]),
            )
            for problem in run.problems
        ],
        models_cuts,
    )


def prompt_lengths(run: RecordedRun, characters_a_token: float) -> dict[str, int]:
    """Tokens of each problem's prompt: exact where the model's tokenizer is on this machine."""
    options = run.config.draft
    if Path(model_path(options.model)).is_dir():
        tokenizer = Tokenizer.load(options)
        return {p.id: len(tokenizer.prompt(p, run.config.prompt)) for p in run.problems}
    system = run.config.prompt.system
    return {
        p.id: round(len(system + question(p, run.config.prompt)) / characters_a_token) + 10
        for p in run.problems
    }


def _recorded(chain: Chain, characters_a_token: float) -> FollowedChain:
    turns = []
    for turn in chain.turns:
        lengths: dict[str, int] = {}
        for segment in turn.segments:
            tokens = segment.tokens or round(len(segment.text) / characters_a_token)
            lengths[segment.author] = lengths.get(segment.author, 0) + max(1, tokens)
        if lengths:
            draft, decision = lengths.get("draft", 0), turn.decision
            turns.append(
                FollowedTurn(
                    draft,
                    lengths.get("target"),
                    decision.score if decision else None,
                    _over(decision.surprises, draft) if decision else (),
                    decision.scores if decision else {},
                )
            )
    return FollowedChain(tuple(turns), chain.answer)


def _over(surprises: Sequence[float], tokens: int) -> tuple[float, ...]:
    """As many surprises as there are tokens of the draft's; they were of the target's.

    >>> _over((0.5, 4.0), 4)
    (0.5, 0.5, 4.0, 4.0)
    """
    if not surprises:
        return ()
    return tuple(surprises[token * len(surprises) // tokens] for token in range(tokens))
