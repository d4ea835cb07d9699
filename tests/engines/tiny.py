"""Tiny models of random weights, and what plain transformers makes of them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from atts.engines.base import Sampling

VOCABULARY = 96
CONTEXT = 256
END = 2

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # large, so that the likeliest tokens stand out
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """A model of random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(config).eval()
        return model


def tiny_llama(**changes: Any) -> PreTrainedModel:  # noqa: ANN401 - any field of the config
    return build(LlamaForCausalLM, LlamaConfig(**(SMALL | changes)))


def greedy(max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, top_p=1.0, seed=0)


def sampled(max_tokens: int, seed: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=1.0, top_p=0.95, seed=seed)


def some_ids(length: int, seed: int = 0) -> list[int]:
    """A prompt; its ids leave room below for special ones, and the last one free for tests."""
    ids: list[int] = np.random.default_rng([length, seed]).integers(5, 95, length).tolist()
    return ids


def plain_scores(model: PreTrainedModel, ids: list[int], start: int) -> NDArray[np.float64]:
    """Log-probabilities of ``ids[start:]`` by one forward pass without any cache."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    logprobs = logits.log_softmax(dim=-1)
    scores: NDArray[np.float64] = logprobs[range(start - 1, len(ids) - 1), ids[start:]].numpy()
    return scores


def plain_greedy(model: PreTrainedModel, ids: list[int], max_tokens: int) -> tuple[int, ...]:
    """The continuation by transformers' own generate, without its end-of-sequence token."""
    end = model.config.eos_token_id
    prompt = torch.tensor([ids])
    generate: Any = model.generate
    output = generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
    )[0].tolist()
    written = output[len(ids) :]
    return tuple(written[: written.index(end)] if end in written else written)
