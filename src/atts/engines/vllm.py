"""The engine over a vLLM server: token ids in and out, scoring with the prefix cache in use.

A request for prompt log-probabilities does not read vLLM's prefix cache unless it is told to:
every score would compute the whole chain again. Told to, the server gives nothing for the cached
positions, so the cache must not reach beyond the token before ``start``. What a server can do
differs by version and is found out when the engine connects (``Scoring``).
"""

import asyncio
import base64
import binascii
import io
import logging
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from atts.config import ModelOptions
from atts.engines.base import ChainMark, GenerateRequest, Load, ScoreRequest
from atts.engines.http import HttpClient, Json
from atts.engines.remote import (
    PROBE_SECONDS,
    FoundLogprobs,
    RemoteEngine,
    ServerFacts,
    WrittenTokens,
    field,
)
from atts.errors import (
    EngineServerError,
    EngineUnavailableError,
    RequestRefusedError,
)

TOKENS = "/inference/v1/generate"
COMPLETIONS = "/v1/completions"

SMALLEST_BLOCK = 16
"""The server caches whole blocks of tokens, whose size is a multiple of this."""

NOT_JSON = "Out of range float values"
"""What a server says that meant to send a number that is none."""

_log = logging.getLogger(__name__)


class Scoring(Enum):
    """Ways to ask for the log-probabilities of a given text, the best first."""

    TOKEN_IDS = "prompt_logprob_token_ids, with the prefix cache"  # noqa: S105
    """Only the new rows are computed and sent, as an array (vLLM's model runner V2)."""
    PROMPT_LOGPROBS = "prompt_logprobs, with the prefix cache"
    """A row for every token is sent, those of cached tokens without meaning."""
    RECOMPUTED = "prompt_logprobs, without the prefix cache"
    """The whole chain is computed again for every score."""
    COMPLETIONS = "prompt_logprobs of /v1/completions, without the prefix cache"
    """As above, on servers that do not know the token-in-token-out route."""


class VllmEngine(RemoteEngine):
    """Serves one model by one vLLM server, or by a router in front of several; see ``Engine``.

    Cancelling closes the connection, at which vLLM aborts the request.
    """

    def __init__(
        self, client: HttpClient, options: ModelOptions, vocab_size: int, end_ids: frozenset[int]
    ) -> None:
        super().__init__(client, options, vocab_size, end_ids)
        self._scoring = Scoring.COMPLETIONS

    async def _ask(self) -> ServerFacts:
        models = await self.client.get("/v1/models", PROBE_SECONDS)
        name = field(models, "data", 0, "id")
        context_length = field(models, "data", 0, "max_model_len")
        if not isinstance(name, str) or not isinstance(context_length, int):
            raise self.unusable("/v1/models names no model with max_model_len; is this vLLM?")
        self.model_id = name
        try:
            version = field(await self.client.get("/version", PROBE_SECONDS), "version")
        except RequestRefusedError:  # a router may not know it
            version = None
        self._scoring, remarks = await self._probe()
        _log.info("%s: scoring by %s", self.client.url, self._scoring.value)
        return ServerFacts(
            version=str(version or "unknown"),
            model=str(
                self.model_id
                if self._options.served_as
                else field(models, "data", 0, "root") or self.model_id
            ),
            context_length=context_length,
            scoring=self._scoring.value,
            remarks=remarks,
        )

    async def meter(self) -> Load | None:
        try:
            metrics = await self.client.get_text("/metrics", PROBE_SECONDS)
        except RequestRefusedError:
            return None
        found: dict[str, list[float]] = {}  # one of each for each data-parallel copy
        try:
            for family in text_string_to_metric_families(metrics):
                found[family.name] = [sample.value for sample in family.samples]
            return Load(
                running=int(sum(found["vllm:num_requests_running"])),
                waiting=int(sum(found["vllm:num_requests_waiting"])),
                cache_use=max(found["vllm:kv_cache_usage_perc"]),
            )
        except (KeyError, ValueError):
            return None

    async def _probe(self) -> tuple[Scoring, tuple[str, ...]]:
        """Find the best way to score that the server knows; with remarks on what is missing."""
        ids = [i % self.vocab_size for i in range(3, 3 + 2 * SMALLEST_BLOCK)]
        try:
            plain = await self._send_tokens(ids, {"max_tokens": 1})
        except RequestRefusedError as error:
            _log.info("%s: no %s: %s", self.client.url, TOKENS, error)
            return Scoring.COMPLETIONS, (
                f"it does not serve {TOKENS}, so every score computes the whole chain again: "
                "start vLLM 0.32 or later with --enable-scale-out",
            )
        try:
            reply = await self._send_tokens(ids, _by_token_ids(ids, 1, reuse=False))
        except RequestRefusedError as error:
            _log.info("%s: no prompt_logprob_token_ids: %s", self.client.url, error)
        else:
            if field(reply, "prompt_token_id_logprobs") is not None:
                return Scoring.TOKEN_IDS, ()
        if _cached(plain) is None:
            # Without that figure, rows without meaning could be taken for log-probabilities.
            return Scoring.RECOMPUTED, (
                "it does not tell how much of a prompt was cached, so every score computes the "
                "whole chain again: start it with --enable-prompt-tokens-details",
            )
        return Scoring.PROMPT_LOGPROBS, ()

    async def _generate(self, ids: list[int], request: GenerateRequest) -> WrittenTokens:
        sampling, chain = request.sampling, request.chain
        options: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "seed": sampling.seed,
        }
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        if request.logprobs:
            options["logprobs"] = 0  # of the tokens that were drawn alone
        if self._scoring is Scoring.COMPLETIONS:
            # This route would fill in what is left out from the model's generation_config.json.
            options |= {"min_p": 0.0, "repetition_penalty": 1.0}
            reply = await self._send_completion(ids, options | {"return_token_ids": True}, chain)
        else:
            reply = await self._send_tokens(
                ids, options | {"detokenize": bool(sampling.stop)}, chain
            )
        choice = field(reply, "choices", 0)
        written, reason = field(choice, "token_ids"), field(choice, "finish_reason")
        if not isinstance(written, list):
            raise self.unusable(
                "it has no token_ids; versions of vLLM before 0.10 do not give them"
            )
        if reason == "abort":
            raise EngineUnavailableError(f"{self.client.url}: the server gave the request up")
        if reason not in ("stop", "length"):
            raise self.unusable(f"finish_reason is {reason!r}")
        # At a stop string the tokens stay; otherwise the last one is what it stopped at.
        if reason == "stop" and not isinstance(field(choice, "stop_reason"), str):
            written = written[:-1]
        logprobs = None
        if request.logprobs:
            found = field(choice, "logprobs", "token_logprobs")  # as /v1/completions has them
            if found is None:
                entries = field(choice, "logprobs", "content") or ()
                found = [field(entry, "logprob") for entry in entries]
            logprobs = self.numbers(found[: len(written)])
        return WrittenTokens(written, reason, _cached(reply) or 0, logprobs)

    async def _score(self, ids: list[int], request: ScoreRequest) -> FoundLogprobs:
        start, chain = request.start, request.chain
        if self._scoring in (Scoring.TOKEN_IDS, Scoring.PROMPT_LOGPROBS):
            found = await self._score_with_cache(ids, start, chain)
            if found is not None:
                return found
            # The new tokens themselves were cached, for instance by an earlier try; or the rows of
            # cached tokens held numbers that JSON cannot.
            _log.info("%s: a score of %d tokens computes all of them", self.client.url, len(ids))
        found = await self._rows(ids, start, False, chain)
        if found is None:
            raise self.unusable("it has no prompt log-probabilities")
        return found

    async def _score_with_cache(
        self, ids: list[int], start: int, chain: ChainMark | None
    ) -> FoundLogprobs | None:
        """The log-probabilities, or None where the cache reached too far for some of them."""
        if start % SMALLEST_BLOCK:
            return await self._rows(ids, start, True, chain)
        # The blocks may end exactly at ``start``. Then the state after the last token before it,
        # which predicts the first new one, is not computed: that one is asked for by itself.
        first = asyncio.create_task(self._next_logprob(ids[:start], ids[start], chain))
        try:
            rest = FoundLogprobs(np.empty(0), start)
            if start + 1 < len(ids):
                found = await self._rows(ids, start + 1, True, chain)
                if found is None:
                    return None
                rest = found
            logprobs = np.concatenate([[await first], rest.logprobs])
            return FoundLogprobs(logprobs, min(rest.cached_tokens, start))
        finally:
            first.cancel()

    async def _rows(
        self, ids: list[int], start: int, reuse: bool, chain: ChainMark | None
    ) -> FoundLogprobs | None:
        if self._scoring is Scoring.TOKEN_IDS:
            reply = await self._send_tokens(ids, _by_token_ids(ids, start, reuse), chain)
            encoded = field(reply, "prompt_token_id_logprobs")
            if encoded is None:  # the server drops what it cannot compute
                return None
            return FoundLogprobs(self._decoded(encoded), _cached(reply) or 0)
        if self._scoring is Scoring.COMPLETIONS:
            options = {"prompt_logprobs": 0, "max_tokens": 1, "temperature": 0.0}
            reply = await self._send_completion(ids, options, chain)
            rows = field(reply, "choices", 0, "prompt_logprobs")
        else:
            try:
                reply = await self._send_tokens(ids, _by_prompt_logprobs(reuse), chain)
            except (EngineServerError, RequestRefusedError) as error:
                # Rows without meaning hold whatever was in memory, numbers too that JSON cannot.
                if reuse and NOT_JSON in str(error):
                    return None
                raise
            rows = field(reply, "prompt_logprobs")
            if reuse and (_cached(reply) or 0) >= start:
                return None
        new = len(ids) - start
        if not isinstance(rows, list) or len(rows) < new:
            raise self.unusable(f"prompt_logprobs has too few rows; {new} were asked for")
        # From the end, because some versions leave out the rows of cached tokens.
        logprobs = [
            field(row, str(token_id), "logprob")
            for row, token_id in zip(rows[-new:], ids[start:], strict=True)
        ]
        if any(not isinstance(logprob, int | float) for logprob in logprobs):
            raise self.unusable("a log-probability is null, or belongs to another token")
        return FoundLogprobs(np.array(logprobs, dtype=np.float64), _cached(reply) or 0)

    async def _next_logprob(self, ids: list[int], token_id: int, chain: ChainMark | None) -> float:
        """Log-probability of one token after ``ids``."""
        another = (token_id + 1) % self.vocab_size  # of two ids, the first is always sent
        reply = await self._send_tokens(
            ids,
            {
                "max_tokens": 1,
                "temperature": 0.0,
                "detokenize": False,
                "logprobs": 2,
                "logprob_token_ids": [token_id, another],
            },
            chain,
        )
        entries = field(reply, "choices", 0, "logprobs", "content", 0, "top_logprobs") or []
        for entry in entries:
            logprob = field(entry, "logprob")
            if field(entry, "token_id") == token_id and isinstance(logprob, int | float):
                return float(logprob)
        raise self.unusable("it lacks the log-probability of a token in logprob_token_ids")

    def _decoded(self, encoded: Json) -> NDArray[np.float64]:
        """The rows of ``prompt_token_id_logprobs``: an array file of shape (rows, 1), in base64."""
        try:
            raw = base64.b64decode(encoded, validate=True)
            rows = np.load(io.BytesIO(raw), allow_pickle=False)
        except (binascii.Error, ValueError, TypeError, EOFError) as error:
            raise self.unusable(f"prompt_token_id_logprobs is not an array: {error}") from error
        if rows.ndim != 2 or rows.shape[1] != 1 or rows.dtype.kind != "f":
            raise self.unusable(f"prompt_token_id_logprobs has the shape {rows.shape}")
        return np.asarray(rows[:, 0], dtype=np.float64)

    async def _send_tokens(
        self, ids: list[int], options: dict[str, Any], chain: ChainMark | None = None
    ) -> Json:
        body = {"model": self.model_id, "token_ids": ids, "sampling_params": options}
        return await self.client.post(TOKENS, body, chain=chain)

    async def _send_completion(
        self, ids: list[int], options: dict[str, Any], chain: ChainMark | None
    ) -> Json:
        body = {"model": self.model_id, "prompt": ids, **options}
        return await self.client.post(COMPLETIONS, body, chain=chain)


def _by_token_ids(ids: list[int], start: int, reuse: bool) -> dict[str, Any]:
    return {
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
        "skip_reading_prefix_cache": not reuse,
        # Row i predicts token start + i + 1 of the server's count.
        "prompt_logprob_start": start - 1,
        "prompt_logprob_token_ids": [[token_id] for token_id in ids[start:]],
    }


def _by_prompt_logprobs(reuse: bool) -> dict[str, Any]:
    return {
        "max_tokens": 1,
        "temperature": 0.0,
        # Rows without meaning hold ids that no tokenizer knows.
        "detokenize": False,
        "skip_reading_prefix_cache": not reuse,
        "prompt_logprobs": 0,
    }


def _cached(reply: Json) -> int | None:
    cached = field(reply, "usage", "prompt_tokens_details", "cached_tokens")
    return cached if isinstance(cached, int) else None
