"""One control for the chains of all workers: an actor that decides, and how the workers ask it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ray.exceptions import RayError

from atts.cluster.messages import Decided, Failure, Gated, Held, Question
from atts.conformal.control import Control
from atts.conformal.gate import LEAST
from atts.errors import AttsError
from atts.methods.decider import ControlDecider, Ruling, Scores
from atts.types import Chain, ChainKey, Decision, Gate, Timings

NOWHEN = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


class ControlActor:
    """Holds the control of a run, and decides in the order in which questions arrive."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def rule(
        self, questions: Sequence[Question], take_overs_done: int
    ) -> list[Ruling | Gated | Failure]:
        """Decide for each, after so many take-overs have been finished."""
        for _ in range(take_overs_done):
            self._control.take_over_done()
        return [self._rule(question) for question in questions]

    def _rule(self, question: Question) -> Ruling | Gated | Failure:
        key, turn, u, score, running, surprise = question
        decider = ControlDecider(self._control, key.problem_id)
        try:
            if score is None:
                return decider.pass_or_not(turn, surprise, u)
            return decider.rule(turn, Scores(score, running), u)
        except AttsError as error:  # of this one chain, as where it is decided in its process
            return Failure.of(error)


def restored(control: Control, made: Iterable[Chain], held: Sequence[Held]) -> Control:
    """The control with the decisions of further chains, and of those that are still in flight."""
    recorded = [
        (chain.problem_id, number, decision)
        for chain in made
        for number, decision in chain.decisions
    ]
    for every in held:
        recorded += [(each.key.problem_id, each.turn, each.decision) for each in every.decided]
    control.restore_decisions(recorded)
    control.take_overs_begun(sum(every.take_overs for every in held))
    return control


class DeciderClient:
    """Asks the decider for the chains of this process, a batch at a time.

    While one batch is under way the next one gathers, so the cost of a call is shared by as many
    decisions as arrive meanwhile. If the decider is lost, questions wait for the next one
    (``ask_of``); of what was decided and is not on record yet an account is kept (``hold``).
    """

    def __init__(self) -> None:
        self.lost: int | None = None
        """The number of the decider that does not answer any more."""
        self._number = -1
        self._actor: Any = None
        self._questions: list[tuple[Question, asyncio.Future[Any]]] = []
        self._done = 0  # take-overs that the decider has not been told of
        self._on_target = 0
        self._decided: dict[ChainKey, list[Decided]] = defaultdict(list)
        self._gates: dict[ChainKey, Gate] = {}  # of segments that are being scored
        self._wake = asyncio.Event()

    def ask_of(self, number: int, actor: Any) -> None:  # noqa: ANN401 - Ray's handle
        """Ask this decider from now on."""
        self._number, self._actor, self.lost = number, actor, None
        self._wake.set()

    def hold(self) -> Held:
        """Ask nobody until ``ask_of``; gives what the next decider has to take up.

        Answers that are on their way are not looked at, so that each decision counts once.
        """
        self._actor, self._number, self._done = None, -1, 0
        decided = [each for every in self._decided.values() for each in every]
        return Held(decided, self._on_target)

    def forget(self, key: ChainKey) -> None:
        """The chain is on record, with its decisions."""
        self._decided.pop(key, None)
        self._gates.pop(key, None)

    async def ask(self, question: Question) -> Any:  # noqa: ANN401 - as its ``score`` says
        """Have it decided: a ruling, or what the gate says.

        Raises:
            AttsError: it cannot be; see ``Control.decide``.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions.append((question, answer))
        self._wake.set()
        return await answer

    def take_over_done(self) -> None:
        """A take-over of this process is finished."""
        self._on_target -= 1
        self._done += 1

    async def serve(self) -> None:
        """Send what is asked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._actor and self._questions:
                await self._send()

    async def _send(self) -> None:
        number, actor = self._number, self._actor
        asked, self._questions = self._questions, []
        asked = [each for each in asked if not each[1].done()]  # else its chain has ended
        done, self._done = self._done, 0
        try:
            answers = await actor.rule.remote([question for question, _ in asked], done)
        except RayError:
            if number == self._number:
                self.lost, self._actor = number, None
            answers = None
        if answers is None or number != self._number:
            self._questions = asked + self._questions
            return
        for (question, waiting), answer in zip(asked, answers, strict=True):
            if isinstance(answer, Failure):
                if not waiting.done():
                    waiting.set_exception(answer.error())
                continue
            ruling = self._note(question, answer)
            if not waiting.done():
                waiting.set_result(answer)
            elif ruling and ruling.verdict.take_over:
                self.take_over_done()

    def _note(self, question: Question, answer: Ruling | Gated) -> Ruling | None:
        """Keep account of a decision; which it is, if it is one."""
        key, ruling, gate = question.key, None, None
        if isinstance(answer, Ruling):
            ruling, gate = answer, self._gates.pop(key, None)
        elif answer:
            gate, ruling = answer
        if ruling is None:
            if gate:
                self._gates[key] = gate
            return None
        verdict = ruling.verdict
        self._on_target += verdict.take_over
        decision = Decision(
            score=LEAST if question.score is None else question.score,
            p_value=verdict.p_value,
            take_over=verdict.take_over,
            threshold=verdict.threshold,
            order=ruling.order,
            scored_tokens=0,
            cached_tokens=0,
            timings=NOWHEN,
            gate=gate,
            passed=question.score is None,
        )
        self._decided[key].append(Decided(key, question.turn, decision))
        return ruling


class FarDecider:
    """Decides for the chains of one problem by asking the decider of the run; see ``Decider``."""

    has_barrier = False

    def __init__(self, client: DeciderClient, has_gate: bool, problem_id: str) -> None:
        self._client = client
        self._has_gate = has_gate
        self._problem_id = problem_id

    async def gate(self, sample: int, turn: int, surprise: float | None, u: float) -> Gated:
        if not self._has_gate:
            return None
        key = ChainKey(self._problem_id, sample)
        said: Gated = await self._client.ask(Question(key, turn, u, surprise=surprise))
        return said

    async def decide(self, sample: int, turn: int, scores: Scores, u: float) -> Ruling:
        key = ChainKey(self._problem_id, sample)
        ruling: Ruling = await self._client.ask(Question(key, turn, u, *scores))
        return ruling

    def take_over_done(self) -> None:
        self._client.take_over_done()

    def leave(self, sample: int) -> None:
        """Nobody waits for it."""
