"""SpecReason (arXiv 2504.07891): the target rates each step of the draft's, and mends bad ones.

A step ends at a blank line.
"""

import asyncio
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atts.config import Options
from atts.engines.base import GenerateRequest, Sampling, ScoreRequest
from atts.methods.chain import OpenChain, Written
from atts.methods.method import Method
from atts.types import ChainEnd, Rating, Timings

RatingKind = Literal["greedy", "average"]
STEP_ENDS = ("\n\n",)
THOUGHT_ENDS = "</think>"
_GREEDY = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, seed=0)


class SpecReasonOptions(Options):
    """``method=specreason``; the defaults are those of its authors."""

    threshold: float = Field(default=7.0, ge=0.0)
    """A step that the target rates lower, from 0 to 9, is written again by the target."""
    rating: RatingKind = "greedy"
    """``greedy`` takes the digit that the target writes; ``average`` the mean of the ten digits by
    their probabilities."""
    first_target_steps: int = Field(default=0, ge=0)
    """The target writes so many steps before the draft begins."""
    step_tokens: int = Field(default=512, ge=1)
    """Longest step, where no blank line ends it."""
    token_budget: int = Field(default=8192, ge=1)
    """Tokens of a chain, after which it is given up; steps that were rejected do not count."""
    request: str = Field(
        default="Rate the last step of the reasoning so far. Judge only whether it is factually "
        "right and follows logically from the steps before it; style and usefulness do not "
        "matter. Give a score from 0 to 9.",
        min_length=1,
    )
    """The message that asks the target for its rating; it never becomes part of the chain."""
    reply: str = "I think the quality score is: "
    """How the target's reply to it begins; the digit follows."""


async def specreason(chain: OpenChain) -> ChainEnd:
    """Draft a step, have it rated, perhaps have the target write it instead; until the answer."""
    options = chain.config.of(SpecReasonOptions)
    steps: list[str] = []
    while (left := options.token_budget - chain.tokens) > 0:
        most = min(options.step_tokens, left)
        target_writes = len(steps) < options.first_target_steps
        if not target_writes:
            written = await chain.generate("draft", most, stop=STEP_ENDS)
            if written.is_empty:
                return chain.stopped()
            target_writes = await rate_step(chain, written, options) < options.threshold
            if target_writes:
                chain.discard(written)
        if target_writes:
            written = await chain.generate("target", most, stop=STEP_ENDS)
        if THOUGHT_ENDS in written.segment.text and not chain.would_conclude(
            chain.text + written.segment.text
        ):
            # Or the model would stop reasoning.
            written = chain.with_text(written, written.segment.text.replace(THOUGHT_ENDS, ""))
        chain.append(written)
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        steps.append(written.segment.text)
        repeats = len(steps) > 2 and steps[-1] == steps[-2]
        if repeats or written.is_last:
            return chain.stopped()
    return "turns"


async def rate_step(chain: OpenChain, written: Written, options: SpecReasonOptions) -> float:
    """Ask the target how good a segment is as the next step of the chain, from 0 to 9.

    The request follows the chain as a message of the user's, in the target's chat template. It is
    sent with the chain's token ids, whose keys and values the engine has or will need anyway.

    Raises:
        ConfigError: the chat template refuses a second message of the user's.
        EngineError: the target could not serve the request.
    """
    engine, tokenizer = chain.models["target"]
    asked = tokenizer.next_message(options.request, options.reply)
    read = len(written.token_ids["target"]) + len(asked)
    ids = chain.token_ids["target"] + written.token_ids["target"] + asked
    if options.rating == "average":
        chain.rating = await _average(chain, ids, read)
        return chain.rating.value
    request = GenerateRequest(ids, _GREEDY, chain.mark, chain.turn, "rate")
    completion = await engine.generate(request)
    digit = tokenizer.decode(list(completion.token_ids)).strip()
    chain.rating = Rating(
        # What is no digit is no recommendation.
        value=float(digit) if digit in set("0123456789") else 0.0,
        read_tokens=read,
        written_tokens=len(completion.token_ids),
        cached_tokens=completion.cached_tokens,
        timings=completion.timings,
    )
    return chain.rating.value


async def _average(chain: OpenChain, ids: list[int], read: int) -> Rating:
    """The mean of the digits by their probabilities, of which each is scored.

    Engines differ in how many likeliest tokens they tell, and digits may not be among them.
    """
    engine, tokenizer = chain.models["target"]
    digits = [tokenizer.encode(str(digit)) for digit in range(10)]
    requests = [
        ScoreRequest(ids + digit, len(ids), chain.mark, chain.turn, "rate") for digit in digits
    ]
    # The first alone, so that the others find the request in the prefix cache.
    first = await engine.score(requests[0])
    scored = [first, *await asyncio.gather(*map(engine.score, requests[1:]))]
    logprobs = np.array([each.logprobs.sum() for each in scored])
    return Rating(
        value=mean_digit(logprobs),
        read_tokens=read + sum(map(len, digits)),
        cached_tokens=sum(each.cached_tokens for each in scored),
        timings=Timings(
            queued=first.timings.queued,
            started=first.timings.started,
            first_token=first.timings.first_token,
            done=max(each.timings.done for each in scored),
        ),
    )


def mean_digit(logprobs: NDArray[np.float64]) -> float:
    """sum_d d p_d / sum_d p_d, of the log-probabilities of the ten digits, shape (10,), in nats.

    >>> likely = {7: -6.0, 9: -6.0}
    >>> round(mean_digit(np.array([likely.get(digit, -100.0) for digit in range(10)])), 3)
    8.0
    """
    weights = np.exp(logprobs - logprobs.max())
    return float(np.arange(10) @ weights / weights.sum())


METHOD = Method(name="specreason", solve=specreason, options=SpecReasonOptions, takes_over=True)
