"""Models of many designs: served like transformers serves them, or refused."""

import asyncio
from typing import Any

import numpy as np
import pytest
from engines.tiny import (
    CONTEXT,
    SMALL,
    build,
    greedy,
    plain_greedy,
    plain_scores,
    some_ids,
    tiny_llama,
)
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)
from transformers.cache_utils import Cache

from atts.engines.base import GenerateRequest, ScoreRequest
from atts.engines.inprocess.engine import InProcessEngine, context_length, why_not_batched
from atts.engines.inprocess.kv_cache import cache_argument
from atts.errors import ConfigError

WINDOW = 16
"""Far shorter than the sequences below."""

SERVED: dict[str, tuple[type[PreTrainedModel], type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama-eager": (LlamaForCausalLM, LlamaConfig, {"attn_implementation": "eager"}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "mistral-sliding": (MistralForCausalLM, MistralConfig, {"sliding_window": WINDOW}),
    "gemma2-sliding": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {"sliding_window": WINDOW, "head_dim": 8, "query_pre_attn_scalar": 8},
    ),
    "gemma3-sliding": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "sliding_window": WINDOW,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt2-learned-positions": (
        GPT2LMHeadModel,
        GPT2Config,
        {"n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "opt-offset-positions": (
        OPTForCausalLM,
        OPTConfig,
        {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
    ),
    "phi": (PhiForCausalLM, PhiConfig, {}),
    "gpt-neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
}


def model_of(name: str) -> PreTrainedModel:
    model_class, config_class, changes = SERVED[name]
    fields = SMALL | changes
    if name == "gpt2-learned-positions":
        for other_name in ("max_position_embeddings", "hidden_size", "num_hidden_layers"):
            del fields[other_name]
        del fields["num_attention_heads"]
    return build(model_class, config_class(**fields))


@pytest.mark.parametrize("name", list(SERVED))
async def test_text_and_scores_of_ragged_turns_are_those_of_transformers(name: str) -> None:
    model = model_of(name)
    chains = [some_ids(length) for length in (3, 17, 40, 41, 70)]
    drafts = [some_ids(length, seed=1) for length in (9, 1, 5, 20, 12)]
    engine = InProcessEngine(model, cache_tokens=10_000)
    try:
        for _ in range(2):
            completions = await asyncio.gather(
                *(engine.generate(GenerateRequest(c, greedy(8))) for c in chains)
            )
            expected = [plain_greedy(model, chain, 8) for chain in chains]
            assert [c.token_ids for c in completions] == expected
            chains = [c + list(w.token_ids) for c, w in zip(chains, completions, strict=True)]

            whole = [c + d for c, d in zip(chains, drafts, strict=True)]
            scored = await asyncio.gather(
                *(engine.score(ScoreRequest(w, len(c))) for w, c in zip(whole, chains, strict=True))
            )
            for ids, chain, found in zip(whole, chains, scored, strict=True):
                wanted = plain_scores(model, ids, len(chain))
                assert np.abs(found.logprobs - wanted).max() < 1e-4
            chains = whole
    finally:
        await engine.aclose()


class CallsItCache(LlamaForCausalLM):
    """As transformers names it since 5.24."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
    ) -> Any:  # noqa: ANN401 - as in transformers
        given: dict[str, Any] = {cache_argument(PLAIN): cache}
        return super().forward(
            input_ids, attention_mask, position_ids, use_cache=use_cache, **given
        )


class CallsItPastKeyValues(LlamaForCausalLM):
    """As transformers named it before."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
    ) -> Any:  # noqa: ANN401
        given: dict[str, Any] = {cache_argument(PLAIN): past_key_values}
        return super().forward(
            input_ids, attention_mask, position_ids, use_cache=use_cache, **given
        )


PLAIN = tiny_llama()


@pytest.mark.parametrize("model_class", [CallsItCache, CallsItPastKeyValues])
async def test_a_cache_is_given_by_either_name(model_class: type[PreTrainedModel]) -> None:
    engine = InProcessEngine(build(model_class, LlamaConfig(**SMALL)), cache_tokens=1000)
    prompt = some_ids(20)
    try:
        first = await engine.generate(GenerateRequest(prompt, greedy(8)))
        assert first.token_ids == plain_greedy(PLAIN, prompt, 8)
        scored = await engine.score(ScoreRequest([*prompt, *first.token_ids], len(prompt)))
        assert scored.cached_tokens > 0
        wanted = plain_scores(PLAIN, [*prompt, *first.token_ids], len(prompt))
        assert np.abs(scored.logprobs - wanted).max() < 1e-4
    finally:
        await engine.aclose()


def test_the_context_is_known_under_an_architectures_own_name() -> None:
    assert context_length(model_of("gpt2-learned-positions")) == CONTEXT


def test_rotary_embeddings_that_change_with_the_length_limit_the_context() -> None:
    """Beyond the first length, kept keys would not fit, and other requests would be felt."""
    factors = [1.0] * 4
    config = Phi3Config(
        **SMALL,
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": factors,
            "long_factor": [2 * f for f in factors],
            "original_max_position_embeddings": 64,
        },
    )
    assert context_length(build(Phi3ForCausalLM, config)) == 64


RECURRENT = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
    "num_experts": 0,
}


@pytest.mark.parametrize(
    ("model_class", "config", "reason"),
    [
        (
            MambaForCausalLM,
            MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2),
            "key-value cache",
        ),
        (Qwen3NextForCausalLM, Qwen3NextConfig(**(SMALL | RECURRENT)), "key-value cache"),
        (
            RwkvForCausalLM,
            RwkvConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2),
            "key-value cache",
        ),
        (BloomForCausalLM, BloomConfig(vocab_size=96, hidden_size=32, n_layer=2), "positions"),
    ],
    ids=["state-space", "hybrid", "recurrent", "no-positions"],
)
def test_what_cannot_be_batched_is_refused(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, reason: str
) -> None:
    model = build(model_class, config)
    with pytest.raises(ConfigError, match=reason):
        InProcessEngine(model, cache_tokens=1000)


def test_a_refusal_says_what_this_model_lacks() -> None:
    bloom = build(BloomForCausalLM, BloomConfig(vocab_size=96, hidden_size=32, n_layer=2))
    lacks = why_not_batched(bloom)
    assert lacks is not None
    assert "position_ids" in lacks
    assert "key-value cache" not in lacks
    hybrid = why_not_batched(build(Qwen3NextForCausalLM, Qwen3NextConfig(**(SMALL | RECURRENT))))
    assert hybrid is not None
    assert "LinearAttention" in hybrid
    assert why_not_batched(PLAIN) is None


def test_a_model_that_does_not_say_its_context_is_refused() -> None:
    model = build(BloomForCausalLM, BloomConfig(vocab_size=96, hidden_size=32, n_layer=2))
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        context_length(model)
