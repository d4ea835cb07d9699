"""The simulated engine: it follows the script of a chain, and refuses what cannot be."""

import asyncio

import numpy as np
import pytest

from atts.engines.base import Completion, GenerateRequest, Sampling, Scored, ScoreRequest
from atts.errors import ContextLengthError, EmptyInputError, EngineError
from atts.simulation.engine import (
    Script,
    ScriptTokenizer,
    ScriptTurn,
    SimulatedClient,
    SimulatedEngine,
)
from atts.simulation.hardware import GPUS, Costs, Efficiency, SharedGpus
from atts.simulation.server import Scheduling, Server
from atts.simulation.shapes import SHAPES
from atts.simulation.simulate import run_virtually
from atts.types import Author, Problem

SCRIPT = Script(3, 0, 4, (ScriptTurn(6, 5, 0.5), ScriptTurn(2, 3, 1.5)), "42")
PROMPT = [3, 0, 0, 0]
WAY = Sampling(max_tokens=500, temperature=0.8, top_p=1.0, seed=0)


def engine(author: Author, room: int = 1_000) -> SimulatedEngine:
    costs = Costs.of(SHAPES["qwq-32b"], GPUS["h200"], 1, Efficiency())
    server = Server(costs, Scheduling(cache_tokens=room), SharedGpus())
    return SimulatedEngine(author, server, {3: SCRIPT})


def write(author: Author, ids: list[int], turn: int = 0) -> Completion:
    return run_virtually(engine(author).generate(GenerateRequest(ids, WAY, turn=turn)))


def test_the_request_says_which_turn_it_is() -> None:
    first = write("draft", PROMPT)
    assert (len(first.token_ids), first.finish_reason) == (6, "length")
    taken_over = write("target", [*PROMPT, *first.token_ids])
    assert len(taken_over.token_ids) == 5
    last = write("draft", [*PROMPT, *first.token_ids, *taken_over.token_ids], turn=1)
    assert (len(last.token_ids), last.finish_reason) == (2, "stop")
    # Replaced, the draft's segment is not there when the target writes.
    again = write("target", [*PROMPT, *first.token_ids], turn=1)
    assert len(again.token_ids) == 3


def test_scores_are_those_of_the_script() -> None:
    first = write("draft", PROMPT).token_ids
    second = write("draft", [*PROMPT, *first], turn=1).token_ids
    scored: Scored = run_virtually(
        engine("target").score(ScoreRequest([*PROMPT, *first, *second], 10))
    )
    assert scored.logprobs.tolist() == [-1.5, -1.5]
    assert scored.timings.done > scored.timings.queued == 0.0


def test_text_crosses_between_models_and_ends_in_a_box() -> None:
    tokenizer = ScriptTokenizer(SCRIPT)
    problem = Problem(id="p", question="?", answer="!")
    assert tokenizer.prompt(problem, None) == PROMPT  # type: ignore[arg-type]
    for ids, boxed in (([1] * 6, False), ([2] * 5, False), ([3] * 2, True), ([4] * 3, True)):
        text = tokenizer.decode(ids)
        assert tokenizer.encode(text) == ids
        assert ("\\boxed{42}" in text) == boxed
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("") == []


def test_a_cut_segment_does_not_end_the_chain() -> None:
    short = Sampling(max_tokens=1, temperature=0.8, top_p=1.0, seed=0)
    cut = run_virtually(engine("draft").generate(GenerateRequest([*PROMPT, 1], short, turn=1)))
    assert cut.finish_reason == "length"


@pytest.mark.parametrize(
    ("ids", "turn", "error"),
    [
        ([], 0, EmptyInputError),
        ([*PROMPT, 3], 2, EngineError),
        (PROMPT * 400, 0, ContextLengthError),
    ],
)
def test_what_cannot_be_written_is_refused(
    ids: list[int], turn: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        write("draft", ids, turn)


def test_there_must_be_something_to_score() -> None:
    with pytest.raises(EmptyInputError):
        run_virtually(engine("target").score(ScoreRequest(PROMPT, 4)))


def test_cancelling_aborts_on_the_server() -> None:
    async def main() -> int:
        draft = engine("draft")
        task = asyncio.create_task(draft.generate(GenerateRequest(PROMPT, WAY)))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(10.0)
        return draft._server.usage.written_tokens

    assert 1 <= run_virtually(main()) < 6


def test_equal_requests_get_equal_replies() -> None:
    first, second = (write("draft", PROMPT) for _ in range(2))
    assert first == second
    assert np.all(np.array(first.token_ids) == 1)


def test_the_client_does_one_request_after_the_other() -> None:
    async def main() -> tuple[float, list[float]]:
        loop, ours = asyncio.get_running_loop(), engine("draft")

        async def one() -> float:
            began = loop.time()
            await ours.generate(GenerateRequest(PROMPT, WAY))
            return loop.time() - began

        alone = await one()
        ours._client = SimulatedClient(1.0)
        return alone, list(await asyncio.gather(one(), one(), one()))

    alone, together = run_virtually(main())
    assert together == pytest.approx([1 + alone, 2 + alone, 3 + alone], abs=0.01)
