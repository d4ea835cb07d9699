"""The calibration: scores of chains that ran under one configuration, and what it is valid for."""

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError

from atts.config import Config, Coverage, differing_keys
from atts.errors import CalibrationError
from atts.types import Chain, Record

Value = str | int | float | bool | list[str] | None
"""Of a key of the configuration."""


ChainScores = tuple[FiniteFloat | None, ...]
"""The scores of a chain's turns, from turn 0; None where nothing was decided."""


def _some_score(chains: tuple[ChainScores, ...]) -> tuple[ChainScores, ...]:
    if all(score is None for chain in chains for score in chain):
        raise ValueError("there is no score in any turn")
    return chains


ProblemScores = Annotated[tuple[ChainScores, ...], AfterValidator(_some_score)]
"""The scores of a problem's chains that did not fail, in the order of their samples."""

_NAMED = 3
"""How many problem ids a message names before it only counts them."""


class Document(Record):
    """What fills a JSON file of its own, named after its class."""

    made_by: ClassVar[str]
    """The command that makes it."""

    def to_json(self) -> str:
        """The text of the file; ``from_json`` gives back an equal object."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """Read what ``to_json`` wrote. ``source`` names the text in messages.

        Raises:
            CalibrationError: the text is torn, or is something else than such a document.
        """
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise CalibrationError(
                f"{source} is not a {cls.__name__.lower()}: "
                f"{key + ': ' if key else ''}{fault['msg']}; make it again with {cls.made_by}"
            ) from None


class Calibration(Document):
    """What ``atts calibrate`` makes and a run decides by: the content of ``calibration.json``."""

    made_by = "atts calibrate"

    version: Literal[2]
    fingerprint: dict[str, Value]
    """The configuration that it was made under: ``Config.calibration_fingerprint()``."""
    coverage: Coverage
    scores: Annotated[dict[str, ProblemScores], Field(min_length=1)]
    """Problem id -> the scores of its chains, turn by turn."""

    @classmethod
    def from_chains(cls, chains: Iterable[Chain], config: Config) -> Self:
        """Collect the scores of every turn of the chains that did not fail.

        The order in which the chains ended leaves no trace: they are sorted by their keys.

        Raises:
            CalibrationError: there is not one score, or a score is not a finite number.
        """
        scores: dict[str, list[ChainScores]] = {}
        chains = sorted(chains, key=lambda chain: chain.key)
        for chain in chains:
            if chain.end == "failed":
                continue
            for number, decision in chain.decisions:
                if not math.isfinite(decision.score):
                    raise CalibrationError(
                        f"problem {chain.problem_id}, sample {chain.sample}, turn {number}: the "
                        f"score is {decision.score}, not a finite number; run the chain again"
                    )
            if any(chain.decisions):
                scores.setdefault(chain.problem_id, []).append(chain.scores)
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
            scores={problem_id: tuple(turns) for problem_id, turns in scores.items()},
        )

    def by_turn(self, problem_id: str | None = None) -> list[list[float]]:
        """The scores of each turn, from turn 0: of one problem, or of all."""
        problems = self.scores.values() if problem_id is None else [self.scores[problem_id]]
        chains = [chain for problem in problems for chain in problem]
        return [
            [score for score in same_turn if score is not None]
            for same_turn in zip_longest(*chains)
        ]

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
