"""Folders of models with true architectures and no weights: servers fill in random ones.

The sizes are those of the models' own ``config.json`` on the Hugging Face hub. The vocabularies
are made equal (R1-Distill-Llama-8B has 128,256 ids of its own, Qwen3 151,936), so that what one
random model writes is text for the other; the tokenizer knows single characters, as nobody reads
the texts. A router with random weights sends tokens to all experts nearly alike, a trained one less
evenly.
"""

import json
import string
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 152_064
SHARED = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32_768,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_key_value_heads": 8,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "head_dim": 128,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-5,
    "use_sliding_window": False,
}
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "use_sliding_window": False,
}
QWEN3_EXPERTS = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_key_value_heads": 4,
}
BLOCK_FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
MODELS: dict[str, dict[str, Any]] = {
    "R1-Distill-Llama-8B": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "QwQ-32B": QWEN2
    | {
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "max_window_layers": 64,
    },
    "R1-Distill-Qwen-1.5B": QWEN2
    | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_window_layers": 21,
    },
    "R1-Distill-Llama-70B": LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    "Qwen3-1.7B": QWEN3
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "max_window_layers": 28,
        "tie_word_embeddings": True,
    },
    "Qwen3-30B-A3B": QWEN3_EXPERTS
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "max_window_layers": 48,
    },
    "Qwen3-235B-A22B-FP8": QWEN3_EXPERTS
    | {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 94,
        "num_attention_heads": 64,
        "max_window_layers": 94,
        "quantization_config": BLOCK_FP8,
    },
    # To try the commands where there is no large GPU.
    "tiny": QWEN3
    | {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_window_layers": 2,
    },
    "tiny-experts": QWEN3_EXPERTS
    | {
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "max_window_layers": 2,
    },
}


class Pair(NamedTuple):
    draft: str
    target: str
    target_parallel: int = 1
    """GPUs that the target needs at least, of 80 GB each."""
    draft_memory: float = 0.1
    """Share of a GPU that the draft takes where it is beside the target."""


PAIRS = {
    "8B+32B": Pair("R1-Distill-Llama-8B", "QwQ-32B", draft_memory=0.25),
    "1.7B+30B-A3B": Pair("Qwen3-1.7B", "Qwen3-30B-A3B"),
    "1.5B+70B": Pair("R1-Distill-Qwen-1.5B", "R1-Distill-Llama-70B", 4),
    "1.7B+235B-A22B": Pair("Qwen3-1.7B", "Qwen3-235B-A22B-FP8", 4),
    "tiny": Pair("tiny", "tiny-experts"),
}
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def make_model(name: str, parent: Path) -> Path:
    """Write one of ``MODELS`` as a folder that a server can load; its path."""
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHARED | MODELS[name], indent=1))
    letters = [*SPECIAL, *string.printable]
    tokenizer = Tokenizer(
        models.WordLevel({letter: number for number, letter in enumerate(letters)}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "<pad>",
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "unk_token": "<unk>",
                "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            }
        )
    )
    return folder
