"""A tiny Llama as a GGUF file, by what llama.cpp asks of one; without a tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    """Write the weights in float32."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: _array(tensor) for name, tensor in model.state_dict().items()}
    for name, array in weights.items():
        kind = name.removeprefix("model.").removesuffix(".weight")
        whole = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        if kind in whole:
            writer.add_tensor(f"{whole[kind]}.weight", array)
            continue
        _, layer, part = kind.split(".", 2)
        shown = array
        if part.endswith("q_proj"):
            shown = _interleaved(array, heads)
        elif part.endswith("k_proj"):
            shown = _interleaved(array, groups)
        writer.add_tensor(f"blk.{layer}.{names[part]}.weight", shown)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.detach().float().numpy()
    return found


def _interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rotary halves side by side, as llama.cpp turns them in pairs."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
