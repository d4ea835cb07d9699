"""The engine over a vLLM server: token ids in and out, scoring with the prefix cache in use.

A request for prompt log-probabilities does not read vLLM's prefix cache unless it is told to:
every score would compute the whole chain again. Told to, the server gives nothing for the cached
positions, so the cache must not reach beyond the token before ``start``. What a server can do
differs by version and is found out when the engine connects (``Scoring``).
"""

import asyncio
import base64
import io
import logging
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from atts.config import ModelOptions
from atts.engines.base import ChainMark, GenerateRequest, Load, ScoreRequest
from atts.engines.http import NO_JSON_NUMBER, HttpClient, Json, quoted
from atts.engines.remote import (
    PROBE_SECONDS,
    FoundLogprobs,
    RemoteEngine,
    ServerFacts,
    WrittenTokens,
    reply_bytes,
)
from atts.engines.replies import (
    UnusableError,
    checked_cached,
    checked_load,
    field,
    is_count,
    numbers,
)
from atts.errors import (
    EngineError,
    EngineReplyError,
    EngineUnavailableError,
    RequestRefusedError,
)
from atts.types import Speculation

TOKENS = "/inference/v1/generate"
COMPLETIONS = "/v1/completions"

SMALLEST_BLOCK = 16
"""The server caches whole blocks of tokens, whose size is a multiple of this."""

SPECULATION = (
    "vllm:spec_decode_num_drafts_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_accepted_tokens_total",
)
ROOM = "vllm:cache_config_info"
METRICS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")

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

    serves_adapters = True

    def __init__(
        self, client: HttpClient, options: ModelOptions, vocab_size: int, end_ids: frozenset[int]
    ) -> None:
        super().__init__(client, options, vocab_size, end_ids)
        self._scoring = Scoring.COMPLETIONS

    async def _ask(self) -> ServerFacts:
        card = await self.identify()
        if card.context_length is None:
            raise UnusableError("/v1/models names no model with max_model_len; is this vLLM?")
        try:
            version = field(await self.client.get("/version", PROBE_SECONDS), "version")
        except (RequestRefusedError, EngineReplyError):  # a router may not know it
            version = None
        self._scoring, remarks = await self._probe()
        try:
            speculation = await self._speculation()
        except (UnusableError, EngineError) as error:  # a router may hide them
            _log.debug("%s: no figures of speculative decoding: %s", self.client.url, error)
        else:
            remarks += self.check_speculation(None if speculation is None else "by its /metrics")
        _log.info("%s: scoring by %s", self.client.url, self._scoring.value)
        return ServerFacts(
            version=str(version or "unknown"),
            model=card.name if self._options.served_as else card.root,
            context_length=card.context_length,
            scoring=self._scoring.value,
            remarks=remarks,
        )

    async def meter(self) -> Load | None:
        try:
            found = await self._metrics((*METRICS, ROOM))
            running, waiting, cache_use = (found[name] for name in METRICS)
        except (KeyError, UnusableError):
            return None
        with self.about("asked for its load"):
            return checked_load(running, waiting, cache_use, found.get(ROOM, ()))

    async def speculation(self) -> Speculation | None:
        try:
            return await self._speculation()
        except UnusableError:
            return None

    async def _forget(self) -> bool:
        # A server has the route only with VLLM_SERVER_DEV_MODE=1, and refuses by its reply while
        # a request holds blocks; older ones reply nothing.
        told = await self.client.post("/reset_prefix_cache", {}, PROBE_SECONDS)
        return not isinstance(told, dict) or told.get("success") is not False

    async def _speculation(self) -> Speculation | None:
        """Of all that the server has written, for whomever; None: it has no such counters."""
        found = await self._metrics(METRICS + SPECULATION)
        if not found:
            raise UnusableError("its /metrics are not those of vLLM")
        if not set(SPECULATION) & set(found):
            return None
        counts = [sum(found.get(name, ())) for name in SPECULATION]
        if not all(0 <= count < 1e12 for count in counts):
            raise UnusableError(f"its counts of speculative decoding are {quoted(counts)}")
        passes, proposed, accepted = map(int, counts)
        return Speculation(passes=passes, proposed=proposed, accepted=accepted)

    async def _metrics(self, names: tuple[str, ...]) -> dict[str, list[float]]:
        """The metrics of these names that the server has: one of each for each copy in it."""
        try:
            metrics = await self.client.get_text("/metrics", PROBE_SECONDS)
        except RequestRefusedError as error:
            raise UnusableError("it has no /metrics") from error
        # Only these lines, because a server has thousands of others.
        lines = [line for line in metrics.splitlines() if line.startswith(names)]
        found: dict[str, list[float]] = {}
        try:
            for family in text_string_to_metric_families("\n".join(lines)):
                for sample in family.samples:
                    if sample.name in names:
                        value = sample.value
                        if sample.name == ROOM:  # its value is 1; what it tells are its labels
                            value = _blocks_in_tokens(sample.labels)
                        found.setdefault(sample.name, []).append(value)
        except ValueError as error:
            raise UnusableError("its /metrics cannot be read") from error
        return found

    async def _probe(self) -> tuple[Scoring, tuple[str, ...]]:
        """Find the best way to score that the server knows; with remarks on what is missing."""
        ids = [i % self.vocab_size for i in range(3, 3 + 2 * SMALLEST_BLOCK)]
        try:
            plain = await self._send_tokens(ids, {"max_tokens": 1})
        except RequestRefusedError as error:
            _log.info("%s: no %s: %s", self.client.url, TOKENS, error)
            return Scoring.COMPLETIONS, (
                f"it does not serve {TOKENS}, so every score computes the whole chain again: "
                "start vLLM 0.30 or later with --enable-scale-out",
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
            options["return_token_ids"] = True
            reply = await self._send_completion(ids, options, chain)
        else:
            options["detokenize"] = bool(sampling.stop)
            reply = await self._send_tokens(ids, options, chain)
        choice = field(reply, "choices", 0)
        written, reason = field(choice, "token_ids"), field(choice, "finish_reason")
        if not isinstance(written, list):
            raise UnusableError(
                "it has no token_ids; versions of vLLM before 0.10 do not give them"
            )
        if reason == "abort":
            raise EngineUnavailableError(f"{self.client.url}: the server gave the request up")
        if reason not in ("stop", "length"):
            raise UnusableError(f"finish_reason is {quoted(reason)}")
        # At a stop string the tokens stay; otherwise the last one is what it stopped at.
        at_string = isinstance(field(choice, "stop_reason"), str)
        if sampling.stop and "stop_reason" not in choice:  # vLLM 0.26 does not tell
            last = written[-1] if written and is_count(written[-1]) else None
            at_string = last not in self.end_ids
        if reason == "stop" and not at_string:
            written = written[:-1]
        logprobs = None
        if request.logprobs:
            found = field(choice, "logprobs", "token_logprobs")  # as /v1/completions has them
            if found is None:
                entries = field(choice, "logprobs", "content")
                if isinstance(entries, list):
                    found = [field(entry, "logprob") for entry in entries]
            logprobs = found[: len(written)] if isinstance(found, list) else found
        return WrittenTokens(written, reason, _cached(reply), logprobs)

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
            raise UnusableError("it has no prompt log-probabilities")
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
            logprobs = np.concatenate([await first, rest.logprobs])
            return FoundLogprobs(logprobs, checked_cached(rest.cached_tokens, start))
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
            return FoundLogprobs(_decoded(encoded, len(ids) - start), _cached(reply))
        if self._scoring is Scoring.COMPLETIONS:
            options = {"prompt_logprobs": 0, "max_tokens": 1, "temperature": 0.0}
            reply = await self._send_completion(ids, options, chain)
            rows = field(reply, "choices", 0, "prompt_logprobs")
        else:
            try:
                reply = await self._send_tokens(ids, _by_prompt_logprobs(reuse), chain)
            except EngineReplyError as error:
                # Rows without meaning hold whatever was in memory, numbers too that JSON cannot.
                if reuse and NO_JSON_NUMBER in str(error):
                    return None
                raise
            rows = field(reply, "prompt_logprobs")
            if reuse and checked_cached(_cached(reply), len(ids)) >= start:
                return None
        new = len(ids) - start
        if not isinstance(rows, list) or len(rows) < new:
            raise UnusableError(f"prompt_logprobs has too few rows; {new} were asked for")
        # From the end, because some versions leave out the rows of cached tokens.
        logprobs = [
            field(row, str(token_id), "logprob")
            for row, token_id in zip(rows[-new:], ids[start:], strict=True)
        ]
        if None in logprobs:
            raise UnusableError("a log-probability is null, or belongs to another token")
        return FoundLogprobs(numbers(logprobs), _cached(reply))

    async def _next_logprob(
        self, ids: list[int], token_id: int, chain: ChainMark | None
    ) -> NDArray[np.float64]:
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
        entries = field(reply, "choices", 0, "logprobs", "content", 0, "top_logprobs")
        name = f"token_id:{token_id}"  # all that vLLM 0.26 tells of a token
        for entry in entries if isinstance(entries, list) else ():
            if token_id == field(entry, "token_id") or name == field(entry, "token"):
                return numbers([field(entry, "logprob")])
        raise UnusableError("it lacks the log-probability of a token in logprob_token_ids")

    async def _send_tokens(
        self, ids: list[int], options: dict[str, Any], chain: ChainMark | None = None
    ) -> Json:
        body = {"model": self.model_id, "token_ids": ids, "sampling_params": options}
        return await self._post(TOKENS, body, ids, options, chain)

    async def _send_completion(
        self, ids: list[int], options: dict[str, Any], chain: ChainMark | None
    ) -> Json:
        body = {"model": self.model_id, "prompt": ids, **options}
        return await self._post(COMPLETIONS, body, ids, options, chain)

    async def _post(
        self,
        path: str,
        body: dict[str, Any],
        ids: Sequence[int],
        options: dict[str, Any],
        chain: ChainMark | None,
    ) -> Json:
        most_bytes = reply_bytes(len(ids) + options["max_tokens"])
        return await self.client.post(path, body, chain=chain, most_bytes=most_bytes)


def _blocks_in_tokens(labels: dict[str, str]) -> int:
    """Tokens that the cache of one copy holds; 0 where the labels do not tell."""
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) if blocks.isdecimal() and size.isdecimal() else 0


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


def _decoded(encoded: Json, rows: int) -> NDArray[np.float64]:
    """What ``prompt_token_id_logprobs`` holds: an array file of shape (rows, 1), in base64."""
    try:
        raw = base64.b64decode(encoded, validate=True)
        file = io.BytesIO(raw)
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read_header(file)
    except Exception as error:  # numpy reads the header as Python text, with all that may be wrong
        raise UnusableError(
            f"prompt_token_id_logprobs is not an array: {quoted(str(error))}"
        ) from error
    # Before anything of that size is made.
    content = memoryview(raw)[file.tell() :]
    if shape != (rows, 1) or kind.kind != "f" or len(content) != rows * kind.itemsize:
        raise UnusableError(
            f"prompt_token_id_logprobs has {len(content):,} bytes of the shape {quoted(shape)} and "
            f"type {quoted(str(kind))}, where {rows} rows of one number were asked for"
        )
    return np.frombuffer(content, dtype=kind).astype(np.float64)


def _cached(reply: Json) -> Json:
    """What the server says was cached, not checked; None where it does not tell."""
    return field(reply, "usage", "prompt_tokens_details", "cached_tokens")
