"""The calibration: scores of chains that ran under one configuration, and what it is valid for."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError

from atts.config import Config, Coverage, differing_keys
from atts.errors import CalibrationError
from atts.types import Chain, Record

Scalar = str | int | float | bool | None


def _some_score(turns: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    if not any(turns):
        raise ValueError("there is no score in any turn")
    return turns


ProblemScores = Annotated[tuple[tuple[FiniteFloat, ...], ...], AfterValidator(_some_score)]
"""The scores of a problem by turn: element t has those of turn t of all its chains."""

_NAMED = 3
"""How many problem ids a message names before it only counts them."""


class Calibration(Record):
    """What ``atts calibrate`` makes and a run decides by: the content of ``calibration.json``."""

    version: Literal[2]
    fingerprint: dict[str, Scalar]
    """The configuration that it was made under: ``Config.calibration_fingerprint()``."""
    coverage: Coverage
    scores: Annotated[dict[str, ProblemScores], Field(min_length=1)]
    """Problem id -> for each turn, the scores of its chains' segments in that turn.

    Within a turn the scores stand in the order of the samples."""

    @classmethod
    def from_chains(cls, chains: Iterable[Chain], config: Config) -> Self:
        """Collect the scores of every turn of the chains that did not fail.

        The order in which the chains ended leaves no trace: they are sorted by their keys.

        Raises:
            CalibrationError: there is not one score, or a score is not a finite number.
        """
        scores: dict[str, list[list[float]]] = {}
        chains = sorted(chains, key=lambda chain: chain.key)
        for chain in chains:
            if chain.end == "failed":
                continue
            for number, turn in enumerate(chain.turns):
                if turn.decision is None:
                    continue
                if not math.isfinite(turn.decision.score):
                    raise CalibrationError(
                        f"problem {chain.problem_id}, sample {chain.sample}, turn {number}: the "
                        f"score is {turn.decision.score}, not a finite number; run the chain again"
                    )
                turns = scores.setdefault(chain.problem_id, [])
                turns += [[] for _ in range(number + 1 - len(turns))]
                turns[number].append(turn.decision.score)
        if not scores:
            failed = [chain for chain in chains if chain.end == "failed"]
            raise CalibrationError(
                f"no scores to calibrate on: of {len(chains)} chains {len(failed)} failed and none "
                "of the others has a scored segment"
                + (f"; the first error: {failed[0].error}" if failed else "")
            )
        return cls(
            version=2,
            fingerprint=config.calibration_fingerprint(),
            coverage=config.take_over.coverage,
            scores={
                problem_id: tuple(tuple(values) for values in turns)
                for problem_id, turns in scores.items()
            },
        )

    def to_json(self) -> str:
        """The text of ``calibration.json``; ``from_json`` gives back an equal object."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Read what ``to_json`` wrote. ``source`` names the text in messages.

        Raises:
            CalibrationError: the text is torn, or is something else than a calibration.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise CalibrationError(
                f"{source} is not a calibration: {key + ': ' if key else ''}{fault['msg']}; "
                "make it again with atts calibrate"
            ) from None

    def check(self, config: Config, problem_ids: Iterable[str]) -> None:
        """Refuse to decide for a run that this calibration says nothing about.

        Args:
            config: the run's configuration.
            problem_ids: the problems that the run evaluates.

        Raises:
            CalibrationError: it was made for another pair, prompt, sampling, turns or take-over
                setting; or it is marginal and was made on problems that are evaluated (unless
                ``calibration.allow_overlap``); or it is conditional and lacks some of them.
        """
        # The stored coverage decides how the scores are grouped, so it is what must agree.
        stored: dict[str, Any] = self.fingerprint | {"take_over.coverage": self.coverage}
        ours = config.calibration_fingerprint()
        if keys := differing_keys(stored, ours):
            differences = "\n  ".join(
                f"{key}: {_shown(stored, key)} in the calibration, {_shown(ours, key)} in the run"
                for key in keys
            )
            raise CalibrationError(
                f"the calibration was made for another configuration:\n  {differences}\n"
                "calibrate again, or run with what it was made for"
            )
        lacking: list[str] = []
        shared: list[str] = []
        for problem_id in dict.fromkeys(problem_ids):
            (shared if problem_id in self.scores else lacking).append(problem_id)
        if self.coverage == "conditional" and lacking:
            raise CalibrationError(
                f"the calibration has no scores for {_some(lacking)}, and coverage is "
                "conditional; calibrate on the problems that are evaluated"
            )
        if self.coverage == "marginal" and shared and not config.calibration.allow_overlap:
            raise CalibrationError(
                f"the calibration was made on {_some(shared)}, which the run evaluates; "
                "calibrate on other problems, or set calibration.allow_overlap=true"
            )


def _some(problem_ids: Sequence[str]) -> str:
    named = ", ".join(problem_ids[:_NAMED])
    rest = len(problem_ids) - _NAMED
    plural = "s" if len(problem_ids) > 1 else ""
    return f"problem{plural} {named}" + (f" and {rest} more" if rest > 0 else "")


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
