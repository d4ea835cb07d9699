"""Tokenizers without ``tokenizer.json``, where one can be made that gives the same ids."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from atts.errors import ConfigError

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

KIMI = "tokenization_kimi.TikTokenTokenizer"
GLM_4 = "tokenization_chatglm.ChatGLM4Tokenizer"
_FILES = {KIMI: "tiktoken.model", GLM_4: "tokenizer.model"}
_PATTERNS = {
    KIMI: (
        r"[\p{Han}]+"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
        rf"|{_REST}"
    ),
    GLM_4: rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{_REST}",
}
"""How text is split before its bytes are merged, by the family's own module and class: other
families have classes of these names, too."""


def convert(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a family that lists tokens by rank, as tiktoken does; ``config`` is its
    ``tokenizer_config.json``.

    Raises:
        ConfigError: it is of no family whose rules are known here, or its file is not what it
            should be.
    """
    kind = _kind(config)
    path = folder / _FILES.get(kind, "")
    if kind not in _FILES or not path.is_file():
        raise ConfigError(
            f"there is no tokenizer.json in {folder}, and of {kind[:200]!r} none can be made that "
            "is sure to give the same ids; where transformers knows it, it makes that file: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    ranks = _ranks(path)
    shown = _shown_bytes()
    vocabulary = {"".join(shown[byte] for byte in token): rank for token, rank in ranks.items()}
    # A whole piece that is a token is taken as it is, as tiktoken does.
    model = models.BPE(vocab=vocabulary, merges=_merges(ranks, shown), ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERNS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, config.get("added_tokens_decoder") or {}, path)
    return tokenizer


def _kind(config: Mapping[str, Any]) -> str:
    """The code of the model's own tokenizer, as ``module.class``, or a class of transformers."""
    own = config.get("auto_map")
    found = own.get("AutoTokenizer") if isinstance(own, dict) else None
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, str):
        return str(config.get("tokenizer_class"))
    return found.rpartition("--")[2]  # without the repository that it may be in


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        token, blank, rank = line.partition(b" ")
        if not line:
            continue
        if not blank or not re.fullmatch(rb"\d{1,9}", rank):
            raise ConfigError(f"{path}, line {number} is no token with its rank")
        try:
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise ConfigError(f"{path}, line {number} is no token with its rank") from None
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ConfigError(f"{path} has no token for the byte {missing[0]}")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ConfigError(f"{path} has a rank twice, or leaves one out")
    return ranks


def _merges(ranks: Mapping[bytes, int], shown: Mapping[int, str]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, by the rank of what it makes."""

    def text(token: bytes) -> str:
        return "".join(shown[byte] for byte in token)

    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(text(left), text(right)) for left, right in known]
    return merges


def _add_special(tokenizer: Tokenizer, added: Mapping[str, Any], path: Path) -> None:
    named = {int(token_id): fields for token_id, fields in added.items()}
    first = tokenizer.get_vocab_size()
    for token_id in range(first, max(named, default=first - 1) + 1):
        fields = named.get(token_id) or {
            "content": f"<|reserved_token_{token_id}|>",
            "special": True,
        }
        tokenizer.add_tokens([AddedToken(**fields)])
        if tokenizer.token_to_id(fields["content"]) != token_id:
            raise ConfigError(
                f"the special token {fields['content']!r} cannot have the id {token_id} after the "
                f"tokens of {path}"
            )


def _shown_bytes() -> dict[int, str]:
    """The character that stands for each byte in a byte-level vocabulary: itself, if it is seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }
