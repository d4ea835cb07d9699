"""One control for the chains of all workers: an actor that decides, and how the workers ask it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ray.exceptions import RayError

from atts.cluster.messages import Decided, Failure, Held, Question
from atts.conformal.control import Control
from atts.errors import AttsError
from atts.methods.decider import ControlDecider, Ruling, Scores
from atts.types import Chain, ChainKey, Decision, Timings

NOWHEN = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


class ControlActor:
    """Holds the control of a run, and decides in the order in which questions arrive."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def rule(self, questions: Sequence[Question], take_overs_done: int) -> list[Ruling | Failure]:
        """Decide for each, after so many take-overs have been finished."""
        for _ in range(take_overs_done):
            self._control.take_over_done()
        return [self._rule(question) for question in questions]

    def _rule(self, question: Question) -> Ruling | Failure:
        decider = ControlDecider(self._control, question.key.problem_id)
        scores = Scores(question.score, question.running)
        try:
            return decider.rule(question.turn, scores, question.u)
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
        self._questions: list[tuple[Question, asyncio.Future[Ruling]]] = []
        self._done = 0  # take-overs that the decider has not been told of
        self._on_target = 0
        self._decided: dict[ChainKey, list[Decided]] = defaultdict(list)
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

    async def ask(self, question: Question) -> Ruling:
        """Have it decided.

        Raises:
            AttsError: it cannot be; see ``Control.decide``.
        """
        answer: asyncio.Future[Ruling] = asyncio.get_running_loop().create_future()
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
            self._note(question, answer)
            if not waiting.done():
                waiting.set_result(answer)
            elif answer.verdict.take_over:
                self.take_over_done()

    def _note(self, question: Question, ruling: Ruling) -> None:
        verdict = ruling.verdict
        self._on_target += verdict.take_over
        decision = Decision(
            score=question.score,
            p_value=verdict.p_value,
            take_over=verdict.take_over,
            threshold=verdict.threshold,
            order=ruling.order,
            scored_tokens=0,
            cached_tokens=0,
            timings=NOWHEN,
        )
        self._decided[question.key].append(Decided(question.key, question.turn, decision))


class FarDecider:
    """Decides for the chains of one problem by asking the decider of the run; see ``Decider``."""

    has_barrier = False

    def __init__(self, client: DeciderClient, problem_id: str) -> None:
        self._client = client
        self._problem_id = problem_id

    async def decide(self, sample: int, turn: int, scores: Scores, u: float) -> Ruling:
        key = ChainKey(self._problem_id, sample)
        return await self._client.ask(Question(key, turn, scores.score, scores.running, u))

    def take_over_done(self) -> None:
        self._client.take_over_done()

    def leave(self, sample: int) -> None:
        """Nobody waits for it."""
