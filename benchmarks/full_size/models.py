"""Folders of models with true architectures and no weights: servers fill in random ones.

The sizes are those of the models' own ``config.json`` on the Hugging Face hub. The vocabularies
are made equal (R1-Distill-Llama-8B has 128,256 ids of its own), so that what one random model
writes is text for the other; the tokenizer knows single characters, as nobody reads the texts.
"""

import json
import string
from pathlib import Path
from typing import Any

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
MODELS: dict[str, dict[str, Any]] = {
    "R1-Distill-Llama-8B": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "rope_theta": 500_000.0,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "QwQ-32B": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-5,
        "use_sliding_window": False,
        "max_window_layers": 64,
    },
}
DRAFT, TARGET = MODELS
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
