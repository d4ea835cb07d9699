"""The engine over any server that continues a prompt by the completions route of OpenAI's protocol.

What such a server can do is found out when the engine connects: whether it takes token ids, which
switches of its own keep it from sampling otherwise than it was asked to, whether its reply has the
ids that it wrote, and whether it tells log-probabilities of a given text, which a target needs.
Where it takes text alone, the chain's ids are spelled out for it, and its reply is encoded here.

Of Ollama, whose completions route puts every prompt into a chat template, the native one is used.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atts.config import ModelOptions
from atts.engines.base import GenerateRequest, Load, ScoreRequest
from atts.engines.completions import (
    NO_SAMPLERS,
    Route,
    Scoring,
    TextCodec,
    busy_slots,
    ids_of,
    logprobs_of,
    the_choice,
)
from atts.engines.http import HttpClient, Json, quoted
from atts.engines.remote import (
    PROBE_SECONDS,
    FoundLogprobs,
    RemoteEngine,
    ServerFacts,
    WrittenTokens,
    reply_bytes,
)
from atts.engines.replies import UnusableError, field, is_count, numbers
from atts.engines.served import ModelCard, model_cards
from atts.errors import ConfigError, EngineReplyError, EngineServerError, RequestRefusedError
from atts.types import FinishReason

COMPLETIONS = "/v1/completions"
OLLAMA = "/api/generate"

PROBE = "1 2 3 4 5 6 7 8 9 10 11 12 13 14"
"""Any model goes on with it, and any tokenizer encodes it in one way."""

OLLAMA_CONTEXT = 8192
"""Ollama reserves memory for as much as is asked for, and shortens longer prompts in silence."""

_AGREE = 0.25
"""Nats by which a server may differ from itself between writing a token and scoring it."""

_log = logging.getLogger(__name__)


class OpenAIEngine(RemoteEngine):
    """Serves one model by one server; see ``Engine``. Cancelling closes the connection."""

    def __init__(
        self,
        client: HttpClient,
        options: ModelOptions,
        vocab_size: int,
        end_ids: frozenset[int],
        codec: TextCodec,
        context_length: int | None = None,
    ) -> None:
        """Prepare for a server; nothing is sent yet.

        ``codec`` is the model's tokenizer, ``context_length`` that of the model itself.
        """
        super().__init__(client, options, vocab_size, end_ids)
        self._codec = codec
        self._own_context = context_length
        self._route = Route("", takes_ids=False, options={})
        self._context = 0
        self._scoring: Scoring | None = None

    async def _forget(self) -> bool:
        raise RequestRefusedError("there is no route for that among OpenAI's")

    async def _ask(self) -> ServerFacts:
        remarks: list[str] = []
        card = await self.identify()
        version = await self._ollama_version()
        self._context = self._context_length(card, version is not None)
        ids = self._codec.encode(PROBE)
        self._route = await self._probe_ollama() if version else await self._probe(ids)
        if self._route.takes_ids:
            self._scoring, self.cannot_score = await self._probe_scoring(ids)
        else:
            self._scoring = None
            self.cannot_score = "it takes text alone, whose tokens are not those of the chain"
            remarks.append(
                "it takes text, not token ids: it encodes the whole chain anew for every request, "
                "and special tokens that it writes, such as marks of a thought, may be lost"
            )
        if not version and not self._route.options.keys() & {"top_k"}:
            remarks.append("it may sample by top_k, min_p or penalties of its own; set them there")
        if self._scoring:
            remarks.append(
                "every score computes the whole chain again; of SGLang and vLLM, engine: sglang "
                "and engine: vllm use the cache"
            )
        _log.info("%s: writing by %s", self.client.url, self._route.name)
        return ServerFacts(
            version=f"Ollama {version}" if version else "unknown",
            model=card.name,
            context_length=self._context,
            scoring=self._scoring.value if self._scoring else f"none: {self.cannot_score}",
            remarks=tuple(remarks),
        )

    async def _cards(self) -> list[ModelCard]:
        try:
            listed = await self.client.get("/v1/models", PROBE_SECONDS)
        except RequestRefusedError as error:
            if "status 404" not in str(error):
                raise
            name = self._options.served_as or self._options.model
            return [ModelCard(name, name, None)]
        lengths = {  # of llama.cpp: what one request may have of its context
            field(each, "id"): field(each, "meta", "n_ctx") for each in field(listed, "data") or ()
        }
        return [
            card._replace(context_length=lengths[card.name])
            if card.context_length is None and is_count(lengths.get(card.name))
            else card
            for card in model_cards(listed)
        ]

    def _context_length(self, card: ModelCard, is_ollama: bool) -> int:
        known = [
            length
            for length in (
                self._options.server.context_length,
                card.context_length,
                OLLAMA_CONTEXT if is_ollama and not self._options.server.context_length else None,
                self._own_context,
            )
            if length
        ]
        if not known:
            raise ConfigError(
                f"{self.client.url} ({self._options.model}) does not tell its context length, and "
                "neither does the model's config.json: set server.context_length"
            )
        return min(known)

    async def _ollama_version(self) -> str | None:
        try:
            version = field(await self.client.get("/api/version", PROBE_SECONDS), "version")
        except (RequestRefusedError, EngineReplyError, EngineServerError):
            return None
        return version if isinstance(version, str) else None

    async def _probe_ollama(self) -> Route:
        route = Route(f"{OLLAMA}, raw", takes_ids=False, options={})
        reply = await self._send_ollama(PROBE, {"num_predict": 1})
        try:
            return self._counted(route, field(reply, "prompt_eval_count"))
        except UnusableError as error:
            raise ConfigError(f"{self.client.url} ({self._options.model}): {error}") from None

    async def _probe(self, ids: list[int]) -> Route:
        """The first way to write that the server takes, from token ids to plain text."""
        refusal: Exception | None = None
        for takes_ids in (True, False):
            for options in NO_SAMPLERS:
                prompt: Any = ids if takes_ids else PROBE
                kind = "token ids" if takes_ids else "text"
                route = Route(f"{COMPLETIONS} of {kind}", takes_ids, options)
                try:
                    reply = await self._send(prompt, {"max_tokens": 1, "temperature": 0.0}, route)
                    route = self._counted(route, field(reply, "usage", "prompt_tokens"))
                    the_choice(reply)
                except (RequestRefusedError, EngineServerError, UnusableError) as error:
                    if "status 401" in str(error) or "status 403" in str(error):
                        raise
                    refusal = error
                    _log.info("%s: not %s with %s: %s", self.client.url, kind, options, error)
                    continue
                return await self._with_ids(route, prompt)
        if isinstance(refusal, EngineServerError):
            raise refusal
        raise ConfigError(
            f"{self.client.url} ({self._options.model}): {COMPLETIONS} takes neither token ids nor "
            f"text as they are: {refusal}"
        )

    def _counted(self, route: Route, counted: Json) -> Route:
        """The route, after a look at how many tokens the server has counted in the probe.

        Raises:
            UnusableError: it has put the prompt into a chat template, or its tokens are others.
        """
        expected = len(self._codec.encode(PROBE))
        if not is_count(counted) or counted == expected:
            return route
        if counted == expected + 1 and not route.takes_ids:
            return route._replace(begins_itself=True)
        raise UnusableError(
            f"it counts {counted} tokens in a prompt of {expected}: it puts prompts into a chat "
            "template, or serves another model than the one whose tokenizer is used here"
        )

    async def _with_ids(self, route: Route, prompt: Json) -> Route:
        """The route by which the reply also has the ids of what was written, if there is one."""
        options: dict[str, Any] = {"max_tokens": 2, "temperature": 0.0}
        for more in ({"return_token_ids": True}, {"logprobs": 1}):
            tried = route._replace(options={**route.options, **more}, gives_ids=True)
            try:
                choice = the_choice(await self._send(prompt, options, tried))
            except (RequestRefusedError, EngineServerError, UnusableError) as error:
                _log.info("%s: no ids by %s: %s", self.client.url, more, error)
                continue
            if (ids := ids_of(choice)) and all(map(is_count, ids)):
                return tried
        return route

    async def _probe_scoring(self, ids: list[int]) -> tuple[Scoring | None, str | None]:
        """A way to score, checked against what the server says while it writes; or why not."""
        try:
            own, written = await self._sample(ids)
        except (RequestRefusedError, EngineServerError, UnusableError) as error:
            return None, f"it tells no log-probabilities, not even of what it writes: {error}"
        reasons = []
        for way in Scoring:
            try:
                rows = (await self._rows(way, ids + own, len(ids))).logprobs
            except (RequestRefusedError, EngineServerError, UnusableError) as error:
                reasons.append(str(error))
                continue
            if len(own) < 2:
                reasons.append(f"{way.value}: nothing was written to compare with")
            elif (off := np.abs(rows - written).max()) > _AGREE:
                reasons.append(
                    f"{way.value}: {off:.1f} nats off what it says of the same tokens while it "
                    "writes them, so they belong to others"
                )
            else:
                return way, None
        return None, f"it tells no usable log-probabilities of a given text ({'; '.join(reasons)})"

    async def _sample(self, ids: list[int]) -> tuple[list[int], NDArray[np.float64]]:
        """Ids that the server writes, and what it says of them meanwhile; most often some."""
        own: list[int] = []
        said = np.empty(0)
        for seed in range(8):
            wanted = {"max_tokens": 8, "temperature": min(seed, 1), "seed": seed, "logprobs": 1}
            choice = the_choice(await self._send(ids, wanted))
            found, written = logprobs_of(choice), self._own_ids(choice)
            if not isinstance(found, list):
                raise UnusableError("there are none in its reply")
            # One more for an end-of-sequence; otherwise the text had other ids on the server.
            if len(found) in (len(written), len(written) + 1) and len(written) > len(own):
                own, said = written, numbers(found[: len(written)])
            if len(own) > 3:
                break
        return own, said

    async def meter(self) -> Load | None:
        return None

    async def in_flight(self) -> int | None:
        """llama.cpp tells which of its slots are at work; others do not."""
        try:
            slots = await self.client.get("/slots", PROBE_SECONDS)
        except (RequestRefusedError, EngineReplyError, EngineServerError):
            return None
        return sum(map(bool, busy)) if (busy := list(busy_slots(slots))) else None

    async def tokenize(self, text: str) -> list[int] | None:
        # llama.cpp reads "content" where vLLM reads "prompt".
        body: dict[str, Any] = {"model": self.model_id, "prompt": text, "content": text}
        body |= {"add_special_tokens": False, "add_special": False}
        try:
            ids = field(await self.client.post("/tokenize", body, PROBE_SECONDS), "tokens")
        except (RequestRefusedError, EngineReplyError, EngineServerError):
            return None
        return ids if isinstance(ids, list) and ids else None

    async def _generate(self, ids: list[int], request: GenerateRequest) -> WrittenTokens:
        sampling = request.sampling
        cached: Json = None
        if self._route.name.startswith(OLLAMA):
            options = {"num_predict": sampling.max_tokens, "temperature": sampling.temperature}
            options |= {"top_p": sampling.top_p, "seed": sampling.seed}
            reply = await self._send_ollama(self._spelled(ids), options, request)
            choice = {
                "text": field(reply, "response"),
                "finish_reason": field(reply, "done_reason"),
            }
        else:
            options = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
            options |= {"top_p": sampling.top_p, "seed": sampling.seed}
            if request.logprobs:
                options["logprobs"] = 1
            prompt = ids if self._route.takes_ids else self._spelled(ids)
            reply = await self._send(prompt, options, request=request)
            choice = the_choice(reply)
            cached = _cached(reply)
        reason = field(choice, "finish_reason")
        if reason not in ("stop", "length"):
            raise UnusableError(f"finish_reason is {quoted(reason)}")
        written, end = self._ended(self._own_ids(choice), reason, request)
        logprobs = None
        if request.logprobs:
            if not self._route.gives_ids:
                raise UnusableError("it does not tell the ids of what it writes")
            found = logprobs_of(choice)
            logprobs = found[: len(written)] if isinstance(found, list) else found
        return WrittenTokens(written, end, cached, logprobs)

    def _own_ids(self, choice: Json) -> list[int]:
        """The ids of what was written, without an end-of-sequence."""
        if self._route.gives_ids:
            ids = ids_of(choice)
            if not isinstance(ids, list):
                raise UnusableError(f"it has {quoted(ids)} and no token_ids")
            return ids[:-1] if ids and is_count(ids[-1]) and ids[-1] in self.end_ids else ids
        text = field(choice, "text")
        if not isinstance(text, str):
            raise UnusableError(f"it has {quoted(text)} in place of a text")
        return self._codec.encode(text)

    def _ended(
        self, ids: list[int], reason: FinishReason, request: GenerateRequest
    ) -> tuple[list[int], FinishReason]:
        """What was written, up to the limit and to a stop string.

        Servers leave a stop string out of the text and do not tell which it was, so none is sent,
        and the text is cut here. Encoded anew, a text may be longer than it was on the server.
        """
        most, stop = request.sampling.max_tokens, request.sampling.stop
        if len(ids) > most and not self._route.gives_ids:
            ids, reason = ids[:most], "length"
        if not stop or not any(text in self._codec.decode(ids) for text in stop):
            return ids, reason
        low, high = 1, len(ids)  # the first so many tokens that hold one
        while low < high:
            middle = (low + high) // 2
            held = self._codec.decode(ids[:middle])
            low, high = (low, middle) if any(text in held for text in stop) else (middle + 1, high)
        return ids[:low], "stop"

    async def _score(self, ids: list[int], request: ScoreRequest) -> FoundLogprobs:
        if self._scoring is None:
            raise RequestRefusedError(
                f"{self.client.url} ({self._options.model}) cannot be a target: "
                f"{self.cannot_score}; it can be a draft"
            )
        return await self._rows(self._scoring, ids, request.start, request)

    async def _rows(
        self, way: Scoring, ids: list[int], start: int, request: ScoreRequest | None = None
    ) -> FoundLogprobs:
        options: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
        options |= {"echo": True, "logprobs": 1} if way is Scoring.ECHO else {"prompt_logprobs": 0}
        reply = await self._send(ids, options, request=request)
        choice, tokens = the_choice(reply), len(ids)
        if way is Scoring.ECHO:
            found, longest = logprobs_of(choice), tokens + 1  # the one that is written, too
        else:
            found, longest = field(choice, "prompt_logprobs"), tokens
        if not isinstance(found, list) or not tokens <= len(found) <= longest:
            raise UnusableError(f"{way.value} has too few rows; {tokens} were asked for")
        new = found[start:tokens]
        if way is Scoring.PROMPT_LOGPROBS:
            new = [
                field(row, str(token_id), "logprob")
                for row, token_id in zip(new, ids[start:], strict=True)
            ]
        return FoundLogprobs(numbers(new), _cached(reply))

    def _spelled(self, ids: list[int]) -> str:
        """The chain as text, without a beginning that the server adds by itself."""
        if self._route.begins_itself and not self._codec.decode(ids[:1]):
            ids = ids[1:]
        return self._codec.spell(ids)

    async def _send(
        self,
        prompt: Json,
        options: dict[str, Any],
        route: Route | None = None,
        request: GenerateRequest | ScoreRequest | None = None,
    ) -> Json:
        own = (route or self._route).options
        body = {"model": self.model_id, "prompt": prompt, "n": 1, **own, **options}
        most = reply_bytes(len(prompt) + options["max_tokens"], 1)
        chain = request.chain if request else None
        return await self.client.post(COMPLETIONS, body, chain=chain, most_bytes=most)

    async def _send_ollama(
        self, prompt: str, options: dict[str, Any], request: GenerateRequest | None = None
    ) -> Json:
        own = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "num_ctx": self._context}
        body = {
            "model": self.model_id,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "options": own | options,
        }
        most = reply_bytes(len(prompt) + options["num_predict"])
        chain = request.chain if request else None
        return await self.client.post(OLLAMA, body, chain=chain, most_bytes=most)


def _cached(reply: Json) -> Json:
    return field(reply, "usage", "prompt_tokens_details", "cached_tokens")
