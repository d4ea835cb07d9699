"""Tokenizers made of lists of ranks, with tiktoken's own algorithm as the judge."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from atts.config import ModelOptions
from atts.errors import ConfigError
from atts.models.conversion import _PATTERNS, GLM_4, KIMI, convert
from atts.models.model_files import read_tokenizer
from atts.models.prompts import Tokenizer

FILES = {KIMI: "tiktoken.model", GLM_4: "tokenizer.model"}
WORDS = "the and that ing 'll tion  \n\n 12 123 aba bab abab 漢字 の é 😀 = \\frac (x) don't "


def learned() -> dict[bytes, int]:
    """Tokens as byte-pair encoding would learn them: each of two that come before it."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in (*WORDS.split(" "), " the", "  ", "   ", "    ", "\n\n", " a", " ab", "\u3000 "):
        encoded = word.encode()
        for end in range(2, len(encoded) + 1):
            for piece in (encoded[:end], encoded[-end:]):
                if piece not in tokens and any(
                    piece[:at] in tokens and piece[at:] in tokens for at in range(1, len(piece))
                ):
                    tokens.append(piece)
    return {token: rank for rank, token in enumerate(tokens)}


RANKS = learned()


def named(kind: str) -> dict[str, object]:
    return {"tokenizer_class": kind.rpartition(".")[2], "auto_map": {"AutoTokenizer": [kind, None]}}


def write(folder: Path, kind: str, ranks: Mapping[bytes, int], **config: object) -> None:
    lines = [base64.b64encode(token).decode() + f" {rank}" for token, rank in ranks.items()]
    (folder / FILES.get(kind, "tiktoken.model")).write_text("\n".join(lines) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(named(kind) | {"chat_template": "{{ messages[0].content }}"} | config)
    )


def as_tiktoken(kind: str, text: str) -> list[int]:
    """Split by the pattern; in each piece, again and again, the pair of the least rank, leftmost
    first. A piece that is a token is one.
    """
    ids = []
    for piece in regex.findall(_PATTERNS[kind], text, flags=regex.V1):
        parts = [bytes([byte]) for byte in piece.encode()]
        if piece.encode() in RANKS:
            parts = [piece.encode()]
        while len(parts) > 1:
            ranked = [
                (RANKS[parts[at] + parts[at + 1]], at)
                for at in range(len(parts) - 1)
                if parts[at] + parts[at + 1] in RANKS
            ]
            if not ranked:
                break
            _, at = min(ranked)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [RANKS[part] for part in parts]
    return ids


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FastTokenizer]:
    found = {}
    for kind in FILES:
        folder = tmp_path_factory.mktemp(kind)
        write(folder, kind, RANKS)
        found[kind] = convert(folder, named(kind))
    return found


texts = st.lists(
    st.sampled_from(WORDS.split(" ")) | st.sampled_from([" ", "  ", "\n", "'S", "A", "\t"])
).map("".join) | st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]))


@given(st.sampled_from(sorted(FILES)), texts)
def test_ids_are_those_of_tiktoken(
    converted: dict[str, FastTokenizer], kind: str, text: str
) -> None:
    ids = converted[kind].encode(text, add_special_tokens=False).ids
    assert ids == as_tiktoken(kind, text)
    assert converted[kind].decode(ids) == text


def test_special_tokens_have_the_ids_that_the_family_gives_them(tmp_path: Path) -> None:
    first = len(RANKS)
    added = {str(first + 1): {"content": "<|im_end|>", "special": True}}
    added[str(first + 3)] = {"content": "<think>", "special": False}
    write(tmp_path, KIMI, RANKS, added_tokens_decoder=added)
    tokenizer = read_tokenizer(tmp_path)
    ids = tokenizer.encode("ab<|im_end|><think>").ids
    assert ids[-2:] == [first + 1, first + 3]
    assert tokenizer.id_to_token(first) == f"<|reserved_token_{first}|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<think>"
    loaded = Tokenizer.load(ModelOptions(model=str(tmp_path)))
    assert (
        loaded.decode(loaded.encode("so <|im_end|> it is 漢字 42")) == "so <|im_end|> it is 漢字 42"
    )


def test_ids_that_cannot_be_are_refused(tmp_path: Path) -> None:
    write(tmp_path, KIMI, RANKS)
    last = len(RANKS)
    config = named(KIMI)
    for added in (
        {str(last): {"content": "<a>"}, str(last + 1): {"content": "<a>"}},
        {
            str(last): {"content": f"<|reserved_token_{last + 1}|>"},
            str(last + 2): {"content": "<b>"},
        },
    ):
        with pytest.raises(ConfigError, match="cannot have the id"):
            convert(tmp_path, config | {"added_tokens_decoder": added})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no ranks here\n", "line 1 is no token with its rank"),
        ("!!! 0\n", "line 1 is no token with its rank"),
        ("YQ== -1\n", "line 1 is no token with its rank"),
        ("YQ== 0\n", "has no token for the byte 0"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "tiktoken.model").write_text(content)
    with pytest.raises(ConfigError, match=told):
        convert(tmp_path, named(KIMI))


def test_ranks_with_a_gap_are_refused(tmp_path: Path) -> None:
    write(tmp_path, KIMI, RANKS | {b"zzz": len(RANKS) + 7})
    with pytest.raises(ConfigError, match="a rank twice, or leaves one out"):
        convert(tmp_path, named(KIMI))


@pytest.mark.parametrize("repository", ["", "moonshotai/Kimi-K2-Instruct--"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_family_is_known_by_its_own_code(tmp_path: Path, repository: str, listed: bool) -> None:
    write(tmp_path, KIMI, RANKS)
    name = repository + KIMI
    config = {"auto_map": {"AutoTokenizer": [name, None] if listed else name}}
    assert convert(tmp_path, config).encode("the").ids == [RANKS[b"the"]]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, "None"),
        ({"tokenizer_class": "LlamaTokenizer"}, "LlamaTokenizer"),
        # Of the same class, by other rules.
        ({"tokenizer_class": "TikTokenTokenizer"}, "TikTokenTokenizer"),
        (
            {"auto_map": {"AutoTokenizer": ["tokenization_other.TikTokenTokenizer", None]}},
            "tokenization_other.TikTokenTokenizer",
        ),
        ({"auto_map": {"AutoTokenizer": []}, "tokenizer_class": "X"}, "X"),
        ({"auto_map": 3, "tokenizer_class": "X"}, "X"),
    ],
)
def test_a_kind_without_known_rules_is_refused_with_the_reason(
    tmp_path: Path, config: dict[str, object], kind: str
) -> None:
    write(tmp_path, KIMI, RANKS)
    with pytest.raises(ConfigError, match=f"of '{kind}' none can be made that is sure.*save_pre"):
        convert(tmp_path, config)
