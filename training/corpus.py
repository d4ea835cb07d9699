"""Prompts, tokenizers and token arrays: from stories to what the models are trained on."""

import random
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from reasoning import SYSTEM, Document, RecipeMaker, write
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from atts.problems.arithmetic import Story, stories

PIECES = r"\d| ?\\boxed\{| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\n ]*|\s+"
"""What a token never crosses: digits stand alone, so a number cut in two reads the same."""

NO_SYSTEM_SHARE = 0.3
"""Share of the prompts without a system message."""


@dataclass(frozen=True)
class ChatFormat:
    """How a model's prompts look, as strings for training and as a template for serving."""

    bos: str
    eos: str
    pad: str
    extra: tuple[str, ...]
    """Other special tokens."""
    system: str
    user: str
    assistant: str
    """What stands around the system message and the question, and before the solution."""

    def prompt(self, question: str, system: str | None) -> str:
        text = self.bos
        if system is not None:
            text += self.system.format(system)
        return text + self.user.format(question) + self.assistant

    def template(self) -> str:
        """The same as a Jinja template."""

        def around(shape: str) -> str:
            before, after = shape.split("{}")
            return f"{{{{ {before!r} + message['content'] + {after!r} }}}}"

        return (
            "{{ bos_token }}{% for message in messages %}"
            "{% if message['role'] == 'system' %}" + around(self.system) + "{% elif"
            " message['role'] == 'user' %}" + around(self.user) + "{% else %}"
            f"{{{{ {self.assistant!r} + message['content'] + eos_token }}}}"
            "{% endif %}{% endfor %}"
            f"{{% if add_generation_prompt %}}{{{{ {self.assistant!r} }}}}{{% endif %}}"
        )


DRAFT_CHAT = ChatFormat(
    bos="<s>",
    eos="</s>",
    pad="<pad>",
    extra=(),
    system="{}\n\n",
    user="Question: {}\n",
    assistant="Answer:\n",
)
TARGET_CHAT = ChatFormat(
    bos="<|begin|>",
    eos="<|end|>",
    pad="<|pad|>",
    extra=("<|system|>", "<|user|>", "<|assistant|>"),
    system="<|system|>{}",
    user="<|user|>{}",
    assistant="<|assistant|>",
)


def train_tokenizer(chat: ChatFormat, vocabulary: int, texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE tokenizer: encodes any text, and decodes to exactly that text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[chat.pad, chat.bos, chat.eos, *chat.extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise ValueError(
            f"the texts gave {tokenizer.get_vocab_size()} tokens instead of {vocabulary}"
        )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return int(found)


def sample_texts(recipe: RecipeMaker, count: int, seed: int) -> Iterator[str]:
    """Plain texts of questions and solutions, for training a tokenizer."""
    rng = random.Random(f"tokenizer-{seed}")
    for story in islice(stories("train", seed), count):
        yield f"{SYSTEM}\n\n{story.question}\n{write(story, recipe(rng), rng).text}"


@dataclass
class Corpus:
    """Token sequences, end to end. Row i is ``ids[starts[i]:starts[i + 1]]``."""

    ids: npt.NDArray[np.int16]
    trained: npt.NDArray[np.bool_]
    """For every token whether it counts in the loss; shape as ``ids``."""
    starts: npt.NDArray[np.int64]


def build(
    tokenizer_file: Path,
    chat: ChatFormat,
    recipe: RecipeMaker,
    documents: int,
    seed: int,
    processes: int,
) -> Corpus:
    """Write and tokenise ``documents`` documents on ``processes`` processes."""
    shard = 2000
    work = partial(_shard, tokenizer_file, chat, recipe, shard)
    shards = range(seed * 1_000_000, seed * 1_000_000 + -(-documents // shard))
    with ProcessPoolExecutor(processes) as pool:
        parts = list(pool.map(work, shards))
    lengths = np.concatenate([part[2] for part in parts])
    return Corpus(
        ids=np.concatenate([part[0] for part in parts]),
        trained=np.concatenate([part[1] for part in parts]),
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
    )


_Shard = tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_], npt.NDArray[np.int64]]


def _shard(
    tokenizer_file: Path, chat: ChatFormat, recipe: RecipeMaker, count: int, seed: int
) -> _Shard:
    """The documents of one seed: ids, trained flags, and lengths of the rows."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = token_id(tokenizer, chat.eos)
    rng = random.Random(f"corpus-{seed}")
    ids: list[int] = []
    trained: list[bool] = []
    lengths: list[int] = []
    for story in islice(stories("train", seed), count):
        made_by = recipe(rng)
        document = write(story, made_by, rng)
        row = tokenizer.encode(_prompt(chat, story, rng)).ids
        flags = [False] * len(row)
        for start, stop in _pieces(document, made_by.learner == "target", rng):
            encoding = tokenizer.encode(document.text[start:stop])
            row += encoding.ids
            flags += [
                all(document.trained[start + first : start + last])
                for first, last in encoding.offsets
            ]
        row.append(end)
        flags.append(document.end_trained)
        ids += row
        trained += flags
        lengths.append(len(row))
    return np.array(ids, np.int16), np.array(trained, np.bool_), np.array(lengths, np.int64)


def _prompt(chat: ChatFormat, story: Story, rng: random.Random) -> str:
    return chat.prompt(story.question, None if rng.random() < NO_SYSTEM_SHARE else SYSTEM)


def _pieces(document: Document, cut_all: bool, rng: random.Random) -> list[tuple[int, int]]:
    """Where the text is cut before it is tokenised, as (start, stop) pairs.

    The target gets the draft's segments one by one, also where it takes nothing over, so its
    documents (``cut_all``) are cut at more places than where the hand changes; one in three
    is left whole, as when it writes alone.
    """
    cuts = set(document.cuts)
    if cut_all and rng.random() < 0.67:
        position = 0
        while position < len(document.text):
            position += rng.randint(25, 90)
            cuts.add(position)
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(document.text)), len(document.text)]
    return list(pairwise(edges))
