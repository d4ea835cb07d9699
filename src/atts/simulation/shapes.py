"""The sizes of models: dense ones, mixtures of experts, and those with latent attention (MLA)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from atts.errors import ConfigError
from atts.models.model_files import model_path

BF16 = 2.0
"""Bytes of a number of 16 bits."""
FP8 = 1.0
MXFP4 = 4.25 / 8
"""Four bits, and a scale of eight for every 32 numbers."""


class Experts(NamedTuple):
    """What takes the MLP's place in the layers of a mixture of experts."""

    total: int
    active: int
    """That a token goes to; the router is taken to send tokens to all alike."""
    size: int
    """Of one: its hidden neurons."""
    shared: int = 0
    """Hidden neurons of those that every token goes to."""
    dense_layers: int = 0
    """Layers that have an ordinary MLP instead."""


class Latent(NamedTuple):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): of a token one
    vector is kept in place of keys and values for each head.
    """

    query: int
    """Size of the queries' latent vector."""
    kept: int
    """Size of the vector that is kept, without positions."""
    position: int
    """Numbers that carry the position, kept beside it."""
    value_size: int
    """Of one head."""


class Shape(NamedTuple):
    """The sizes of a decoder with gated MLPs, or experts, and grouped-query or latent attention.

    Norms, biases and routers are left out.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    """Whether input and output embeddings are one matrix."""
    experts: Experts | None = None
    latent: Latent | None = None
    window_layers: int = 0
    """Layers that look at a short window only: what they keep does not grow with the chain."""
    weight_bytes: float = BF16
    """Of a weight in the layers; embeddings have 16 bits."""
    expert_bytes: float = BF16
    """Of a weight of an expert."""
    cache_bytes: float = BF16
    """Of a number in the key-value cache."""

    @property
    def attention_weights(self) -> int:
        """Of one layer."""
        if self.latent is None:
            return 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        query, kept, position, value = self.latent
        queries = self.hidden * query + query * self.heads * (self.head_size + position)
        keys = self.hidden * (kept + position) + kept * self.heads * (self.head_size + value)
        return queries + keys + self.heads * value * self.hidden

    @property
    def common_weights(self) -> int:
        """Weights of all layers that every token is multiplied with."""
        experts = self.experts
        dense = experts.dense_layers if experts else self.layers
        neurons = dense * self.intermediate
        if experts:
            neurons += (self.layers - dense) * experts.shared
        return self.layers * self.attention_weights + 3 * self.hidden * neurons

    @property
    def expert_weights(self) -> int:
        """Weights of all experts that tokens are sent to."""
        if self.experts is None:
            return 0
        layers = self.layers - self.experts.dense_layers
        return layers * self.experts.total * 3 * self.hidden * self.experts.size

    @property
    def expert_share(self) -> float:
        """Of the experts that one token goes to."""
        return self.experts.active / self.experts.total if self.experts else 0.0

    @property
    def head_weights(self) -> int:
        """Weights that turn a hidden state into logits."""
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """All weights.

        >>> SHAPES["qwq-32b"].weights
        32762757120
        """
        heads = self.head_weights * (1 if self.tied else 2)
        return self.common_weights + self.expert_weights + heads

    @property
    def active_weights(self) -> int:
        """Those that one token is multiplied with, and its embedding's matrix.

        >>> f"{SHAPES['qwen3-235b-a22b'].active_weights / 1e9:.1f} billion"
        '22.1 billion'
        """
        inactive = self.expert_weights * (1.0 - self.expert_share)
        return self.weights - round(inactive)

    @property
    def bytes(self) -> float:
        """Of all weights."""
        heads = self.head_weights * (1 if self.tied else 2)
        layers = self.common_weights * self.weight_bytes + self.expert_weights * self.expert_bytes
        return layers + heads * BF16

    @property
    def token_bytes(self) -> float:
        """Bytes that are kept of one token.

        >>> SHAPES["qwq-32b"].token_bytes
        262144.0
        """
        if self.latent:
            numbers = self.latent.kept + self.latent.position
        else:
            numbers = 2 * self.kv_heads * self.head_size
        return (self.layers - self.window_layers) * numbers * self.cache_bytes

    def kept_copies(self, parallel: int) -> float:
        """How many times each kept number is there, if the model is split over GPUs by heads: a
        head is on one GPU at least, and a latent vector on each.
        """
        return max(1.0, parallel / (1 if self.latent else self.kv_heads))

    def with_bytes(self, weights: float | None = None, cache: float | None = None) -> "Shape":
        """The same with numbers of other sizes, where they are given. What has fewer bits already
        stays as it is.
        """
        changed = self
        if weights is not None:
            changed = changed._replace(
                weight_bytes=min(weights, self.weight_bytes),
                expert_bytes=min(weights, self.expert_bytes),
            )
        return changed if cache is None else changed._replace(cache_bytes=cache)


_QWEN_32B = Shape(5120, 64, 40, 8, 128, 27648, 152064)
_DEEPSEEK_V3 = Shape(
    *(7168, 61, 128, 128, 128, 18432, 129280),
    experts=Experts(256, 8, 2048, shared=2048, dense_layers=3),
    latent=Latent(query=1536, kept=512, position=64, value_size=128),
    weight_bytes=FP8,
    expert_bytes=FP8,
)
_GLM_4 = Shape(
    *(5120, 92, 96, 8, 128, 12288, 151552),
    experts=Experts(160, 8, 1536, shared=1536, dense_layers=3),
)

SHAPES: dict[str, Shape] = {
    # From the config.json of each model.
    "deepseek-r1-distill-qwen-1.5b": Shape(1536, 28, 12, 2, 128, 8960, 151936),
    "qwen2.5-7b-instruct": Shape(3584, 28, 28, 4, 128, 18944, 152064),
    "deepseek-r1-distill-qwen-7b": Shape(3584, 28, 28, 4, 128, 18944, 152064),
    "deepseek-r1-distill-llama-8b": Shape(4096, 32, 32, 8, 128, 14336, 128256),
    "qwq-32b": _QWEN_32B,
    "s1.1-32b": _QWEN_32B,
    "deepseek-r1-distill-qwen-32b": _QWEN_32B,
    "deepseek-r1-distill-llama-70b": Shape(8192, 80, 64, 8, 128, 28672, 128256),
    "qwen3-0.6b": Shape(1024, 28, 16, 8, 128, 3072, 151936, tied=True),
    "qwen3-1.7b": Shape(2048, 28, 16, 8, 128, 6144, 151936, tied=True),
    "qwen3-4b": Shape(2560, 36, 32, 8, 128, 9728, 151936, tied=True),
    "qwen3-8b": Shape(4096, 36, 32, 8, 128, 12288, 151936),
    "deepseek-r1-0528-qwen3-8b": Shape(4096, 36, 32, 8, 128, 12288, 151936),
    "qwen3-14b": Shape(5120, 40, 40, 8, 128, 17408, 151936),
    "qwen3-32b": Shape(5120, 64, 64, 8, 128, 25600, 151936),
    "qwen3-30b-a3b": Shape(*(2048, 48, 32, 4, 128, 6144, 151936), experts=Experts(128, 8, 768)),
    "qwen3-235b-a22b": Shape(*(4096, 94, 64, 4, 128, 12288, 151936), experts=Experts(128, 8, 1536)),
    # Every second layer looks at 128 tokens.
    "gpt-oss-20b": Shape(
        *(2880, 24, 64, 8, 64, 2880, 201088),
        experts=Experts(32, 4, 2880),
        window_layers=12,
        expert_bytes=MXFP4,
    ),
    "gpt-oss-120b": Shape(
        *(2880, 36, 64, 8, 64, 2880, 201088),
        experts=Experts(128, 4, 2880),
        window_layers=18,
        expert_bytes=MXFP4,
    ),
    # The indexer of V3.2, and that it looks at 2,048 tokens at most, are left out.
    "deepseek-r1": _DEEPSEEK_V3,
    "deepseek-v3.2": _DEEPSEEK_V3,
    "glm-4.5": _GLM_4,
    "glm-4.6": _GLM_4,
    "glm-4.5-air": Shape(
        *(4096, 46, 96, 8, 128, 10944, 151552),
        experts=Experts(128, 8, 1408, shared=1408, dense_layers=1),
    ),
    "glm-z1-9b-0414": Shape(4096, 40, 32, 2, 128, 13696, 151552),
}
_FP8_NAME = "-fp8"


def shape_of(model: str) -> Shape:
    """The shape of a model: of a folder with its ``config.json``, or of a name in ``SHAPES``, which
    may end in ``-FP8``.

    Raises:
        ConfigError: it is neither, or the model is of a kind that cannot be simulated.

    >>> shape_of("Qwen/QwQ-32B").layers
    64
    >>> shape_of("Qwen/Qwen3-235B-A22B-FP8").expert_bytes
    1.0
    """
    folder = Path(model_path(model))
    if not folder.is_dir():
        name = model.rpartition("/")[2].lower()
        if shape := SHAPES.get(name.removesuffix(_FP8_NAME)):
            return shape.with_bytes(weights=FP8) if name.endswith(_FP8_NAME) else shape
        raise ConfigError(
            f"the sizes of {model} are not known: name a folder with its config.json, or one "
            f"of {', '.join(sorted(SHAPES))}"
        )
    path = folder / "config.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return _read(tree.get("text_config", tree), path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read the sizes of the model from {path}: {error!r}") from error


def _read(tree: Mapping[str, Any], path: Path) -> Shape:
    heads = tree["num_attention_heads"]
    kinds = tree.get("layer_types") or []
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"{path}: layers of {', '.join(sorted(unknown))} cannot be simulated")
    latent = None
    if kept := tree.get("kv_lora_rank"):
        latent = Latent(tree["q_lora_rank"], kept, tree["qk_rope_head_dim"], tree["v_head_dim"])
    shape = Shape(
        hidden=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=heads,
        kv_heads=tree.get("num_key_value_heads") or heads,
        head_size=tree.get("qk_nope_head_dim")
        or tree.get("head_dim")
        or tree["hidden_size"] // heads,
        intermediate=tree["intermediate_size"],
        vocabulary=tree["vocab_size"],
        tied=bool(tree.get("tie_word_embeddings", False)),
        experts=_experts(tree, path),
        latent=latent,
        window_layers=kinds.count("sliding_attention"),
    )
    kind = (tree.get("quantization_config") or {}).get("quant_method")
    if kind is None:
        return shape
    if kind == "fp8":
        return shape.with_bytes(weights=FP8)
    if kind == "mxfp4":
        return shape._replace(expert_bytes=MXFP4)
    raise ConfigError(f"{path}: weights quantised by {kind} cannot be simulated, only fp8 or mxfp4")


def _experts(tree: Mapping[str, Any], path: Path) -> Experts | None:
    """The names differ from family to family."""
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    count = next((tree[name] for name in names if tree.get(name)), None)
    if count is None:
        return None
    if tree.get("decoder_sparse_step", 1) != 1:
        raise ConfigError(
            f"{path}: experts in some layers only (decoder_sparse_step) are not known"
        )
    size = tree.get("moe_intermediate_size") or tree["intermediate_size"]
    shared = tree.get("shared_expert_intermediate_size") or 0
    return Experts(
        total=count,
        active=tree.get("num_experts_per_tok") or tree["experts_per_token"],
        size=size,
        shared=shared or size * (tree.get("n_shared_experts") or 0),
        dense_layers=tree.get("first_k_dense_replace") or len(tree.get("mlp_only_layers") or []),
    )
