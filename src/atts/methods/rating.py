"""What the target thinks of a text when it is asked, in words or by its likelihood."""

import asyncio

import numpy as np
from numpy.typing import NDArray

from atts.config import SpecReasonOptions
from atts.engines.base import Engine, Sampling, Scored
from atts.errors import EngineError
from atts.models.prompts import Tokenizer
from atts.types import Rating, Timings

_GREEDY = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, seed=0)


async def score_tokens(engine: Engine, ids: list[int], start: int) -> Scored:
    """Log-probabilities of ``ids[start:]``, one each and all finite; see ``Engine.score``.

    Raises:
        EngineError: the engine gave no usable log-probabilities.
    """
    scored = await engine.score(ids, start)
    if len(scored.logprobs) != len(ids) - start or not np.isfinite(scored.logprobs).all():
        raise EngineError(
            f"the target scored {len(scored.logprobs)} of {len(ids) - start} tokens, mean "
            f"{scored.logprobs.mean()}: these are not usable log-probabilities"
        )
    return scored


async def rate_likelihood(engine: Engine, ids: list[int], start: int) -> Rating:
    """The mean log-likelihood of ``ids[start:]``, in nats per token.

    Raises:
        EngineError: the engine gave no usable log-probabilities.
    """
    scored = await score_tokens(engine, ids, start)
    return Rating(
        value=float(scored.logprobs.mean()),
        read_tokens=len(ids) - start,
        cached_tokens=scored.cached_tokens,
        timings=scored.timings,
    )


async def rate_step(
    engine: Engine,
    tokenizer: Tokenizer,
    chain: list[int],
    new: int,
    options: SpecReasonOptions,
) -> Rating:
    """Ask the target how good the last step of a chain is, from 0 to 9 (arXiv 2504.07891).

    The request follows the chain as a message of the user's, in the target's chat template. It is
    sent with the chain's token ids, whose keys and values the engine has or will need anyway.

    Args:
        engine: the target's.
        tokenizer: the target's.
        chain: token ids of the chain, the step included.
        new: how many of them the step has.
        options: the request, and whether to take the likeliest digit or their average.

    Raises:
        ConfigError: the chat template refuses a second message of the user's.
        EngineError: the target could not serve the request.
    """
    request = tokenizer.next_message(options.request, options.reply)
    asked = chain + request
    if options.rating == "average":
        return await _average(engine, tokenizer, asked, new + len(request))
    completion = await engine.generate(asked, _GREEDY)
    digit = tokenizer.decode(list(completion.token_ids)).strip()
    return Rating(
        # What is no digit is no recommendation.
        value=float(digit) if digit in set("0123456789") else 0.0,
        read_tokens=new + len(request),
        written_tokens=len(completion.token_ids),
        cached_tokens=completion.cached_tokens,
        timings=completion.timings,
    )


async def _average(engine: Engine, tokenizer: Tokenizer, asked: list[int], read: int) -> Rating:
    """The mean of the digits by their probabilities, of which each is scored.

    Engines differ in how many likeliest tokens they tell, and digits may not be among them.
    """
    digits = [tokenizer.encode(str(digit)) for digit in range(10)]
    # The first alone, so that the others find the request in the prefix cache.
    first = await engine.score(asked + digits[0], len(asked))
    rest = await asyncio.gather(*(engine.score(asked + ids, len(asked)) for ids in digits[1:]))
    scored = [first, *rest]
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
