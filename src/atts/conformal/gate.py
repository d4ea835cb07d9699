"""A gate before the score: which segments pass without the target being asked."""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from atts.config import AdaptiveOptions, GateOptions
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.control import Control, Verdict
from atts.conformal.online import OnlineControl
from atts.conformal.pvalues import two_draws
from atts.conformal.split import CalibratingControl
from atts.errors import EngineError
from atts.types import Decision, Gate

LEAST = -sys.float_info.max
"""The score of a segment that passed: below every other."""


class Passage(NamedTuple):
    """What the gate said of a segment."""

    gate: Gate
    verdict: Verdict | None
    """The decision, if it passed; None: it is to be scored."""


class GatedControl(Control):
    """Lets segments pass unscored of which the draft is certain, and asks a control for the others.

    The gate is a control of its own, whose score is the draft's certainty: it opens for a share g
    of the segments, the most certain ones so far, by ranks and a threshold that follows (as
    ``online`` does), or by a coin.

    A segment that passes is a decision of the control below, too, with a score below every other.
    So its p-value is close to 1, it is not taken over, and what the control promises, it
    promises of all decisions: at a rate eps, eps / (1 - g) of the scored ones are taken over.
    Where the control would take over whatever the score, nothing passes.

    >>> from atts.conformal.online import OnlineControl
    >>> control = GatedControl(OnlineControl(0.4, "marginal"), GateOptions(share=0.5))
    >>> control.ask("a", turn=0, surprise=0.1, u=0.5 + 2.0**-21).verdict
    Verdict(p_value=0.5, threshold=0.4, take_over=False)
    >>> control.ask("a", turn=0, surprise=7.0, u=0.5 + 2.0**-21).verdict is None
    True
    """

    def __init__(self, control: Control, options: GateOptions) -> None:
        self._control = control
        self._by_coin = options.by == "coin"
        self._gate: Control
        if self._by_coin:
            self._gate = CalibratingControl(options.share, False, None)
        else:
            self._gate = AdaptiveControl(
                OnlineControl(options.share, "marginal", by_turn=False),
                options.share,
                AdaptiveOptions(track="all", step=1.0, decay=0.5),
            )

    def ask(self, problem_id: str, turn: int, surprise: float | None, u: float) -> Passage:
        """Whether a segment passes; if so, that is its decision, and ``decide`` is not to follow.

        Args:
            problem_id: the chain's problem.
            turn: the chain's turn, from 0.
            surprise: the largest -log p of a token under the draft, in nats; not used by a coin.
            u: that of ``decide``; the gate takes a draw of its own from it.

        Raises:
            EngineError: the surprise is not known.
            CalibrationError: see the control below; or the surprise is not a finite number.
        """
        if surprise is None and not self._by_coin:
            raise EngineError(
                "the gate needs the log-probabilities of what the draft wrote, and its engine gave "
                "none: set take_over.gate.share to 0"
            )
        certainty = 0.0 if self._by_coin or surprise is None else -surprise
        coin, own = two_draws(u)
        found = self._gate.decide(problem_id, turn, certainty, coin)
        gate = Gate(
            surprise=None if self._by_coin else surprise,
            p_value=found.p_value,
            threshold=found.threshold,
        )
        if not found.take_over or self._control.look(problem_id, turn, LEAST, own).take_over:
            return Passage(gate, None)
        return Passage(gate, self._control.decide(problem_id, turn, LEAST, own))

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Ask the control below."""
        return self._control.decide(problem_id, turn, score, two_draws(u)[1])

    def look(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Look at the control below."""
        return self._control.look(problem_id, turn, score, two_draws(u)[1])

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:
        """Take up what the gate said, too."""
        self._control.restore(problem_id, turn, decision)
        if (gate := decision.gate) is None:
            return
        certainty = 0.0 if gate.surprise is None else -gate.surprise
        told = {"score": certainty, "p_value": gate.p_value, "threshold": gate.threshold}
        self._gate.restore(problem_id, turn, decision.model_copy(update=told))

    def take_over_done(self) -> None:
        """See the control below."""
        self._control.take_over_done()

    def take_overs_begun(self, count: int) -> None:
        """See the control below."""
        self._control.take_overs_begun(count)

    def forget(self, problem_id: str) -> None:
        """Drop what the control below holds of a problem."""
        self._control.forget(problem_id)

    def state(self) -> dict[str, Any]:
        """That of the control below, and of the gate."""
        return super().state() | {"within": self._control.state(), "gate": self._gate.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Control``."""
        super().load_state(state)
        self._control.load_state(state["within"])
        self._gate.load_state(state["gate"])
