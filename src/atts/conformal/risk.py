"""Certified accuracy: Learn-then-Test over take-over rates, with exact binomial tests."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from atts import registry
from atts.config import Config, differing_keys
from atts.conformal.calibration import Calibration, Document, Value
from atts.errors import CalibrationError

_MOST_PROBLEMS = 2**13
"""More than this is as good as none: nobody labels and runs as many to certify a rate."""


def binomial_p_value(losses: int, problems: int, limit: float) -> float:
    """The p-value of the hypothesis that the loss exceeds a limit.

    P(Bin(problems, limit) <= losses): small where so few losses would be unlikely with a true
    loss of ``limit``. Exact, for losses of 0 or 1 that are independent from problem to problem.

    Raises:
        ValueError: the losses are not among the problems, or the limit is not in (0, 1).

    >>> round(binomial_p_value(0, 22, 0.1), 4)
    0.0985
    """
    if not 0 <= losses <= problems or not 0.0 < limit < 1.0:
        raise ValueError(f"{losses} losses of {problems} problems at a limit of {limit}")
    from scipy import special  # it takes longer to import than all else that a report needs

    return float(special.bdtr(losses, problems, limit))


def fixed_sequence(losses: Iterable[int], problems: int, limit: float, delta: float) -> int:
    """How many of the settings, tested in this order, are certified.

    Learn-then-Test (Angelopoulos, Bates, Candes, Jordan and Lei, arXiv 2110.01052) with
    fixed-sequence testing: each setting is tested at level ``delta`` and the first that fails ends
    the sequence. With probability at least 1 - delta, no certified setting has a true loss above
    the limit: the first setting in the sequence whose loss is too large would have to pass, and
    passes with probability at most delta, whatever the dependence between settings.

    >>> fixed_sequence([0, 1, 9, 0], problems=60, limit=0.1, delta=0.1)
    2
    """
    certified = 0
    for lost in losses:
        if binomial_p_value(lost, problems, limit) > delta:
            break
        certified += 1
    return certified


def problems_needed(limit: float, delta: float, loss: float = 0.0) -> int | None:
    """The fewest problems that certify if a share ``loss`` of them is lost; None if 8,192 do not.

    >>> problems_needed(0.1, 0.1), problems_needed(0.05, 0.1), problems_needed(0.02, 0.1)
    (22, 45, 114)
    >>> problems_needed(0.05, 0.1, loss=0.03)
    258
    """
    if loss >= limit:
        return None

    def certifies(problems: int) -> bool:
        return binomial_p_value(math.ceil(loss * problems), problems, limit) <= delta

    high = 1
    while not certifies(high):
        high *= 2
        if high > _MOST_PROBLEMS:
            return None
    # Rounding up the losses makes it jump up and down a little, so a bisection could miss some.
    return next(problems for problems in range(1, high + 1) if certifies(problems))


class Certificate(Document):
    """The content of ``certificate.json``: what ``atts tune`` vouches for."""

    made_by = "atts tune"

    version: Literal[1]
    fingerprint: dict[str, Value]
    """What it was made under: all keys that results depend on but problems and seed."""
    calibration: str | None
    """Digest of the calibration that it was made with; None if each run makes its own."""
    rate: float
    limit: Annotated[float, Field(gt=0, lt=1)]
    """Most that the accuracy falls short of that of the target alone, as a share of problems."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    losses: int
    """Problems that the target alone got right, by majority vote, and this configuration not."""
    problem_ids: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def quote(self) -> str:
        """What a report says of it."""
        return (
            f"certified: accuracy by majority vote at most {100 * self.limit:g} points below that "
            f"of the target alone, with confidence {100 * self.confidence:g} %, on problems like "
            f"the {len(self.problem_ids)} that it was tested on ({self.losses} lost)"
        )

    def check(
        self, config: Config, calibration: Calibration | None, problem_ids: Sequence[str]
    ) -> None:
        """Refuse to vouch for a run that this certificate says nothing about.

        Raises:
            CalibrationError: the run has another configuration or another calibration, or
                evaluates problems that the certificate was made on (unless
                ``calibration.allow_overlap``).
        """
        ours = certificate_fingerprint(config)
        if keys := differing_keys(self.fingerprint, ours):
            raise CalibrationError(
                "the certificate was made for another configuration: "
                + "; ".join(
                    f"{key} is {self.fingerprint.get(key)!r} there, {ours.get(key)!r} in the run"
                    for key in keys
                )
                + f"; {_mend(config)}tune again, or leave out take_over.certificate"
            )
        if self.calibration not in (None, calibration_digest(calibration)):
            raise CalibrationError(
                "the certificate was made with another calibration than take_over.calibration: "
                "use the one that atts tune printed beside it"
            )
        shared = set(self.problem_ids).intersection(problem_ids)
        if shared and not config.calibration.allow_overlap:
            raise CalibrationError(
                f"the certificate was made on {len(shared)} of the problems that the run evaluates "
                f"({min(shared)} is one): it would vouch for what it was chosen by; evaluate other "
                "problems, or set calibration.allow_overlap=true"
            )


def _mend(config: Config) -> str:
    method = registry.METHODS.found[config.method]
    if not method.whole_problems or method.whole_problems(config):
        return ""
    return f"set {method.group}.whole_problems=true with what was tuned, "


def certificate_fingerprint(config: Config) -> dict[str, Any]:
    """The keys that a certificate is bound to.

    A method that has whole problems solved by ATTS or by the target alone is vouched for as ATTS
    is: of the former it loses as many, and of the latter none (docs/statistics.md).
    """
    method = registry.METHODS.found[config.method]
    if method.whole_problems and method.whole_problems(config):
        config = config.model_copy(update={"method": "atts"})
    return {
        key: value
        for key, value in config.what_results_depend_on().items()
        if key != "seed" and not key.startswith("problems.")
    }


def calibration_digest(calibration: Calibration | None) -> str | None:
    """A name for a calibration's content. Conditional ones differ from run to run: None."""
    if calibration is None or calibration.coverage == "conditional":
        return None
    return hashlib.sha256(calibration.to_json().encode()).hexdigest()[:16]
