"""An engine on a real server whose chains follow recorded ones.

The methods see what they see in a simulation: token ids that say where in its script a chain is
(``atts.simulation.engine``). The server is sent real ids for them, those that the servers wrote
themselves, and each segment is made as long as the recorded one, whatever the model would rather
do. So the servers do the work of real chains, and their random weights do not matter.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from models import SPECIAL, VOCABULARY

from atts.engines.base import ChainMark, Completion, GenerateRequest, Load, Scored, ScoreRequest
from atts.engines.http import Json
from atts.engines.sglang import SGLangEngine
from atts.simulation.engine import Script, place_of, segment_id
from atts.types import Author, FinishReason


class EndlessSGLang(SGLangEngine):
    """Writes on behind an end-of-sequence, up to the limit."""

    async def _send(self, body: dict[str, Any], chain: ChainMark | None) -> Json:
        return await super()._send(
            body | {"sampling_params": body["sampling_params"] | {"ignore_eos": True}}, chain
        )


class FollowingEngine:
    """Serves one model to many chains by a real server; see ``Engine``."""

    def __init__(
        self,
        author: Author,
        server: EndlessSGLang,
        scripts: Mapping[int, Script],
        written: dict[tuple[int, int], list[int]],
    ) -> None:
        """``scripts`` are those of all chains by number; ``written`` is shared by both models, and
        holds the real ids of each segment by script and segment id.
        """
        self._author = author
        self._server = server
        self._scripts = scripts
        self._written = written

    async def generate(self, request: GenerateRequest) -> Completion:
        script, number = self._scripts[request.token_ids[0]], request.turn
        turn = script.turns[number]
        tokens = turn.draft_tokens if self._author == "draft" else turn.target_tokens
        segment = segment_id(number, self._author)
        completion = await self._server.generate(
            request._replace(
                token_ids=self._real(script, request.token_ids),
                sampling=replace(request.sampling, max_tokens=tokens),
            )
        )
        if len(completion.token_ids) != tokens:
            raise RuntimeError(f"{len(completion.token_ids)} tokens, not {tokens}")
        self._written[script.number, segment] = list(completion.token_ids)
        finish: FinishReason = "stop" if script.ends_with(segment) else "length"
        return completion._replace(token_ids=(segment,) * tokens, finish_reason=finish)

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
        script = self._scripts[token_ids[0]]
        scored = await self._server.score(request._replace(token_ids=self._real(script, token_ids)))
        score = script.turns[place_of(token_ids[start])[0]].score
        return scored._replace(logprobs=np.full(len(token_ids) - start, -score))

    async def meter(self) -> Load | None:
        return await self._server.meter()

    async def aclose(self) -> None:
        await self._server.aclose()

    def _real(self, script: Script, token_ids: Sequence[int]) -> list[int]:
        """What the server is sent: the problem's prompt, and the segments as they were written."""
        ids = prompt_ids(script.problem, script.prompt_tokens)
        for segment, places in groupby(token_ids[script.prompt_tokens :]):
            written = self._written[script.number, segment]
            if len(written) != sum(1 for _ in places):
                raise RuntimeError("a segment is not as long as what was written")
            ids += written
        return ids


def prompt_ids(problem: int, tokens: int) -> list[int]:
    """A prompt of random tokens, the same for all chains of a problem."""
    return random.Random(problem).choices(range(len(SPECIAL), VOCABULARY), k=tokens)
