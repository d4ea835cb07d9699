"""An engine on a real server whose chains follow recorded ones.

The methods see what they see in a simulation: token ids that say where in its script a chain is
(``atts.simulation.engine``). The server is sent real ids for them, those that the servers wrote
themselves, and each segment is made as long as the recorded one, whatever the model would rather
do. So the servers do the work of real chains, and their random weights do not matter.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

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


@dataclass
class Hits:
    """Of what was sent to the servers of a model, how much they had in their cache."""

    sent: int = 0
    cached: int = 0

    def add(self, sent: int, cached: int) -> None:
        """A request whose first ``sent`` tokens could have been there."""
        self.sent += sent
        self.cached += cached

    @property
    def share(self) -> float | None:
        """None where nothing was sent."""
        return self.cached / self.sent if self.sent else None


class FollowingEngine:
    """Serves one model to many chains by a real server; see ``Engine``."""

    def __init__(
        self,
        author: Author,
        server: EndlessSGLang,
        scripts: Mapping[int, Script],
        written: dict[tuple[int, int], list[int]],
        writing: Hits,
        scoring: Hits,
    ) -> None:
        """``scripts`` are those of all chains by number; ``written`` is shared by both models, and
        holds the real ids of each segment by script and segment id.
        """
        self._author = author
        self._server = server
        self._scripts = scripts
        self._written = written
        self._writing = writing
        self._scoring = scoring

    async def generate(self, request: GenerateRequest) -> Completion:
        script, number = self._scripts[request.token_ids[0]], request.turn
        turn = script.turns[number]
        whole = turn.draft_tokens if self._author == "draft" else turn.target_tokens
        tokens = min(whole, request.sampling.max_tokens)
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
        self._writing.add(len(request.token_ids), completion.cached_tokens)
        ends = script.ends_with(segment) and tokens == whole
        finish: FinishReason = "stop" if ends else "length"
        return completion._replace(token_ids=(segment,) * tokens, finish_reason=finish)

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
        script = self._scripts[token_ids[0]]
        scored = await self._server.score(request._replace(token_ids=self._real(script, token_ids)))
        self._scoring.add(start, scored.cached_tokens)
        number, _ = place_of(token_ids[start])
        return scored._replace(logprobs=script.turns[number].logprobs(len(token_ids) - start))

    async def meter(self) -> Load | None:
        return await self._server.meter()

    async def aclose(self) -> None:
        """The server is closed by whoever opened it."""

    def _real(self, script: Script, token_ids: Sequence[int]) -> list[int]:
        """What the server is sent: the problem's prompt, and the segments as they were written, of
        which a beginning may have stayed.
        """
        ids = prompt_ids(script.problem, script.prompt_tokens)
        for segment, places in groupby(token_ids[script.prompt_tokens :]):
            written, length = self._written[script.number, segment], sum(1 for _ in places)
            if len(written) < length:
                raise RuntimeError("a segment is longer than what was written")
            ids += written[:length]
        return ids


def prompt_ids(problem: int, tokens: int) -> list[int]:
    """A prompt of random tokens, the same for all chains of a problem."""
    return random.Random(problem).choices(range(len(SPECIAL), VOCABULARY), k=tokens)
