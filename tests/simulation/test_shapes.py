"""Sizes of models."""

import json
from pathlib import Path
from typing import Any

import pytest

from atts.errors import ConfigError
from atts.simulation.shapes import FP8, MXFP4, SHAPES, Experts, Latent, shape_of


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # As their authors say.
        ("deepseek-r1-distill-qwen-1.5b", 1.78),
        ("qwen2.5-7b-instruct", 7.62),
        ("deepseek-r1-distill-llama-8b", 8.03),
        ("qwq-32b", 32.8),
        ("deepseek-r1-distill-llama-70b", 70.6),
        ("qwen3-0.6b", 0.596),
        ("qwen3-1.7b", 1.72),
        ("qwen3-4b", 4.02),
        ("qwen3-8b", 8.19),
        ("qwen3-14b", 14.8),
        ("qwen3-32b", 32.8),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-235b-a22b", 235),
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("deepseek-v3.2", 671),
        ("glm-z1-9b-0414", 9.4),
    ],
)
def test_weights_add_up(name: str, billions: float) -> None:
    assert SHAPES[name].weights / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-30b-a3b", 3.3),
        ("qwen3-235b-a22b", 22.2),
        ("deepseek-v3.2", 37),
        # Their authors count no input embedding: 0.58 billion of each.
        ("gpt-oss-20b", 3.6 + 0.58),
        ("gpt-oss-120b", 5.1 + 0.58),
    ],
)
def test_active_weights_add_up(name: str, billions: float) -> None:
    assert SHAPES[name].active_weights / 1e9 == pytest.approx(billions, rel=0.015)


def test_a_dense_model_uses_all_of_its_weights() -> None:
    assert SHAPES["qwq-32b"].active_weights == SHAPES["qwq-32b"].weights


def test_a_shape_is_read_from_a_config_file() -> None:
    shape = shape_of("bundled/target")
    assert (shape.layers, shape.hidden, shape.kv_heads, shape.head_size) == (8, 256, 4, 32)
    assert shape.tied


DENSE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 100,
}


def written(folder: Path, **more: Any) -> str:  # noqa: ANN401
    (folder / "config.json").write_text(json.dumps(DENSE | more))
    return str(folder)


def test_mixtures_are_read_by_the_names_of_their_families(tmp_path: Path) -> None:
    qwen = written(tmp_path, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32)
    assert shape_of(qwen).experts == Experts(8, 2, 32)
    shared = written(
        tmp_path,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
    )
    assert shape_of(shared).experts == Experts(8, 2, 32, shared=64, dense_layers=1)
    oss = written(
        tmp_path,
        num_local_experts=8,
        experts_per_token=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        quantization_config={"quant_method": "mxfp4"},
    )
    shape = shape_of(oss)
    assert shape.experts == Experts(8, 2, 96)
    assert (shape.window_layers, shape.expert_bytes, shape.weight_bytes) == (2, MXFP4, 2.0)
    assert shape.token_bytes == 2 * (2 * 2 * 16) * 2


def test_latent_attention_is_read(tmp_path: Path) -> None:
    latent = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    shape = shape_of(written(tmp_path, qk_nope_head_dim=12, **latent))
    assert shape.latent == Latent(24, 16, 8, 12)
    assert shape.head_size == 12
    assert shape.token_bytes == 4 * (16 + 8) * 2


def test_eight_bits_are_read_from_the_file_or_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, quantization_config={"quant_method": "fp8"})
    assert shape_of(path).weight_bytes == FP8
    assert shape_of("Qwen/Qwen3-32B-FP8") == SHAPES["qwen3-32b"].with_bytes(weights=FP8)
    assert SHAPES["gpt-oss-20b"].with_bytes(weights=FP8).expert_bytes == MXFP4


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "awq cannot be simulated"),
        ({"layer_types": ["linear_attention"]}, "linear_attention cannot"),
        ({"num_experts": 8, "num_experts_per_tok": 1, "decoder_sparse_step": 2}, "sparse_step"),
        ({"hidden_size": None}, r"cannot read the sizes.*config\.json"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        shape_of(written(tmp_path, **more))


def test_models_of_unknown_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some-model are not known.*qwq-32b"):
        shape_of("someone/some-model")
    with pytest.raises(ConfigError, match=r"config\.json"):
        shape_of(str(tmp_path))
