"""The engine over an SGLang server: its native ``/generate``, token ids in and out."""

import asyncio
import logging
import secrets
from itertools import count
from typing import Any

from atts.config import ModelOptions
from atts.engines.base import ChainMark, GenerateRequest, Load, ScoreRequest
from atts.engines.http import HttpClient, Json, quoted
from atts.engines.remote import (
    FoundLogprobs,
    RemoteEngine,
    ServerFacts,
    WrittenTokens,
    reply_bytes,
)
from atts.engines.replies import UnusableError, checked_load, column, field, is_count, numbers
from atts.engines.served import ModelCard, model_cards
from atts.errors import (
    EngineError,
    EngineReplyError,
    EngineTimeoutError,
    EngineUnavailableError,
    RequestRefusedError,
)
from atts.types import FinishReason, Speculation

ABORT_SECONDS = 10.0
INPUT_RESERVE = 6
"""SGLang refuses inputs that come within so many tokens of its context length."""

WITHOUT_LOGPROBS = frozenset({"DFLASH"})
"""Its ways of speculative decoding that refuse requests for log-probabilities (0.5.12)."""

SPECULATION = (
    ("spec_verify_ct",),
    ("spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num"),
    ("spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num"),
)
"""What ``meta_info`` calls passes, proposed and accepted tokens, the newest name first."""
MOST_TOLD = 10**7

_log = logging.getLogger(__name__)


class SGLangEngine(RemoteEngine):
    """Serves one model by one SGLang server, or by an sglang-router; see ``Engine``."""

    def __init__(
        self, client: HttpClient, options: ModelOptions, vocab_size: int, end_ids: frozenset[int]
    ) -> None:
        super().__init__(client, options, vocab_size, end_ids)
        self._aborts: set[asyncio.Task[None]] = set()
        self._rid, self._sent = secrets.token_hex(8), count()
        self._info: dict[str, Any] = {}  # what the server said of itself when it was asked last
        self._speculation: Speculation | None = None  # of what was written here

    async def _ask(self) -> ServerFacts:
        card = await self.identify()
        context_length = card.context_length
        is_router = context_length is None
        if context_length is None:
            context_length = self._options.server.context_length
        if context_length is None:
            raise UnusableError(
                "/v1/models names no max_model_len; a router does not know it: set "
                "server.context_length to that of the servers behind it"
            )
        info = self._info
        remarks: list[str] = []
        algorithm = info.get("speculative_algorithm")
        if info:  # a router tells of itself
            remarks += self.check_speculation(None if algorithm is None else str(algorithm))
        if algorithm in WITHOUT_LOGPROBS:
            self.cannot_score = (
                f"SGLang gives no log-probabilities with --speculative-algorithm {algorithm}: take "
                "another method of speculative decoding, or none"
            )
        if is_router:
            remarks.append(
                "it is a router, which passes no abort on: a server notices only after seconds "
                "that a request was cancelled"
            )
        if info.get("disable_radix_cache"):
            remarks.append(
                "its prefix cache is off, so every turn computes the whole chain again: start it "
                "without --disable-radix-cache"
            )
        if info and not info.get("enable_deterministic_inference"):
            remarks.append(
                "it ignores seeds, so a run cannot be repeated exactly: start it with "
                "--enable-deterministic-inference if that matters more than speed"
            )
        return ServerFacts(
            version=str(info.get("version", "unknown")),
            model=card.root,
            context_length=context_length,
            scoring="/generate with logprob_start_len",
            remarks=tuple(remarks),
        )

    async def _cards(self) -> list[ModelCard]:
        """Of the models, with the path that the server itself says it loaded."""
        cards = model_cards(await self.client.get("/v1/models", ABORT_SECONDS))
        self._info = await self._server_info()
        path = self._info.get("model_path")
        if not isinstance(path, str) or not path:
            return cards
        return [card._replace(root=path) if card.adapter_of is None else card for card in cards]

    async def meter(self) -> Load | None:
        try:
            reply = await self.client.get("/v1/loads?include=core", ABORT_SECONDS)
        except RequestRefusedError:
            return None
        try:
            ranks = reply["loads"]  # one for each data-parallel copy
            running = [rank["num_running_reqs"] for rank in ranks]
            waiting = [rank["num_waiting_reqs"] for rank in ranks]
            # Without what could be evicted: that is only kept for later.
            cache_use = [rank["token_usage"] for rank in ranks]
            room = [rank.get("max_total_num_tokens") for rank in ranks]
        except (KeyError, TypeError, AttributeError):
            return None
        if not running:
            return None
        with self.about("asked for its load"):
            return checked_load(running, waiting, cache_use, room)

    async def speculation(self) -> Speculation | None:
        return self._speculation

    def _count_speculation(self, meta: Json) -> None:
        """Add up what the server tells of a request; that is nothing of a single token."""
        if field(meta, *SPECULATION[0]) is None:  # as of most servers
            return
        passes, proposed, accepted = (
            next((field(meta, key) for key in keys if is_count(field(meta, key))), None)
            for keys in SPECULATION
        )
        if passes is None or proposed is None or accepted is None:
            return
        if max(passes, proposed, accepted) > MOST_TOLD or accepted > proposed:
            _log.debug("%s tells of impossible speculation", self.client.url)
            return
        told = Speculation(passes=passes, proposed=proposed, accepted=accepted)
        self._speculation = told if self._speculation is None else self._speculation + told

    async def _forget(self) -> bool:
        # It refuses while it has requests; a router has no such route.
        await self.client.get_text("/flush_cache", ABORT_SECONDS)
        return True

    async def _server_info(self) -> dict[str, Any]:
        for path in ("/server_info", "/get_server_info"):  # the older name goes away
            try:
                info = await self.client.get(path, ABORT_SECONDS)
            except (RequestRefusedError, EngineReplyError):
                continue
            if isinstance(info, dict) and "model_path" in info:  # a router tells of itself
                return info
        return {}

    def _capacity(self, facts: ServerFacts, length: int) -> int:
        if length > facts.context_length - 1 - INPUT_RESERVE:
            return 0
        return facts.context_length - 1 - length

    async def _generate(self, ids: list[int], request: GenerateRequest) -> WrittenTokens:
        sampling = request.sampling
        # Without logprob_start_len only what is written has log-probabilities.
        asked = {"return_logprob": True, "top_logprobs_num": 0} if request.logprobs else {}
        reply = await self._send(
            {
                "input_ids": ids,
                **asked,
                "sampling_params": {
                    "max_new_tokens": sampling.max_tokens,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "top_k": -1,
                    "stop": list(sampling.stop),
                    "sampling_seed": sampling.seed,
                },
            },
            request.chain,
        )
        self._count_speculation(field(reply, "meta_info"))
        written = field(reply, "output_ids")
        if not isinstance(written, list):
            raise UnusableError("it has no output_ids")
        reason, matched = self._end(reply)
        # The token at which it stopped comes with the others; a stop string stays in the text. An
        # end-of-sequence that is the last token allowed counts for the server as the limit.
        last = written[-1] if written and is_count(written[-1]) else None
        if reason == "length" and last in self.end_ids:
            reason, written = "stop", written[:-1]
        elif isinstance(matched, int) and last == matched:
            written = written[:-1]
        logprobs = None
        if request.logprobs:
            entries = field(reply, "meta_info", "output_token_logprobs")
            if isinstance(entries, list):
                logprobs = column(entries[: len(written)], 0)
        cached = field(reply, "meta_info", "cached_tokens")
        return WrittenTokens(written, reason, cached, logprobs)

    async def _score(self, ids: list[int], request: ScoreRequest) -> FoundLogprobs:
        start = request.start
        # The first entry has no log-probability, so one token before ``start`` is asked for. A
        # smaller logprob_start_len would keep the server from using its cache beyond it.
        reply = await self._send(
            {
                "input_ids": ids,
                "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
                "return_logprob": True,
                "logprob_start_len": start - 1,
                "top_logprobs_num": request.top,
            },
            request.chain,
        )
        self._end(reply)
        entries = field(reply, "meta_info", "input_token_logprobs")
        if not isinstance(entries, list) or len(entries) != len(ids) - start + 1:
            found = len(entries) if isinstance(entries, list) else "no"
            raise UnusableError(
                f"{found} input_token_logprobs, {len(ids) - start + 1} were asked for"
            )
        theirs, ours = column(entries[1:], 1), ids[start:]
        # The server shows the last id of the vocabulary, and what lies beyond, as 0.
        if theirs != ours and any(
            their != our and our < self.vocab_size - 1
            for their, our in zip(theirs, ours, strict=True)
        ):
            raise UnusableError("its log-probabilities belong to other tokens")
        logprobs = numbers(column(entries[1:], 0))
        cached = field(reply, "meta_info", "cached_tokens")
        if not request.top:
            return FoundLogprobs(logprobs, cached)
        rows = field(reply, "meta_info", "input_top_logprobs")
        if not isinstance(rows, list) or len(rows) != len(entries):
            raise UnusableError("it has too few input_top_logprobs")
        if any(not isinstance(row, list) or len(row) != request.top for row in rows[1:]):
            raise UnusableError(f"input_top_logprobs has rows of other than {request.top}")
        top = numbers([field(entry, 0) for row in rows[1:] for entry in row])
        return FoundLogprobs(logprobs, cached, top.reshape(-1, request.top))

    async def _send(self, body: dict[str, Any], chain: ChainMark | None) -> Json:
        # The server aborts every request whose id begins with the given one, so no id may be
        # the beginning of another: all have one length.
        rid = f"{self._rid}{next(self._sent):016x}"
        tokens = len(body["input_ids"]) + body["sampling_params"]["max_new_tokens"]
        most_bytes = reply_bytes(tokens, body.get("top_logprobs_num", 0))
        try:
            return await self.client.post(
                "/generate", {"rid": rid, **body}, chain=chain, most_bytes=most_bytes
            )
        except (asyncio.CancelledError, EngineTimeoutError):
            # The server would notice the closed connection only seconds later.
            task = asyncio.create_task(self._abort(rid, chain))
            self._aborts.add(task)
            task.add_done_callback(self._aborts.discard)
            raise

    async def _abort(self, rid: str, chain: ChainMark | None) -> None:
        try:
            await self.client.post("/abort_request", {"rid": rid}, ABORT_SECONDS, chain)
        except RequestRefusedError as error:  # a router has no such route
            _log.debug("could not abort request %s: %s", rid, error)
        except EngineError as error:
            _log.warning("could not abort request %s: %s", rid, error)

    async def aclose(self) -> None:
        await asyncio.gather(*self._aborts)
        await super().aclose()

    def _end(self, reply: Json) -> tuple[FinishReason, int | str | None]:
        """Why the server stopped, and the token or text at which it did."""
        end = field(reply, "meta_info", "finish_reason")
        kind = field(end, "type")
        if kind == "stop":
            return "stop", field(end, "matched")
        if kind == "length":
            return "length", None
        if kind == "abort":
            raise EngineUnavailableError(
                f"{self.client.url}: the server gave the request up: "
                f"{quoted(field(end, 'message'))}"
            )
        raise UnusableError(f"finish_reason is {quoted(end)}")
