"""Our own processor time for a turn of a chain, with more and more chains in flight.

    python benchmarks/overhead.py [--in-flight 16 --in-flight 10000] [--vocabulary bundled] [--json]
        [--http] [--tokens 48 --turns 40] [--vocabulary FOLDER]

A whole ``atts run`` (runner, limits, tokenizers, scores, decision, drift alarm, store) with engines
that answer at once: segments of 500 tokens, 8 turns a chain, and no chain finds an answer, so none
ends early. With ``--http`` the engines are those of SGLang, and a server in another process answers
at once: the client, JSON and the checks of replies are part of a turn then.
Every size is run twice: as it is, for the total, and with a timer around each part,
which costs something itself, for the breakdown. All times are those of the processor, so other
processes disturb little. They should not depend on the number of chains.

``--profile`` prints what cProfile finds at the smallest size instead.
"""

import argparse
import asyncio
import cProfile
import functools
import gc
import json
import pstats
import random
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from instant import instant_server
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

import atts.methods.atts
import atts.methods.chain
from atts.config import FORMER_DEFAULTS, Config, ModelOptions, parse_config
from atts.conformal.drift import DriftAlarm
from atts.conformal.online import OnlineControl
from atts.engines.base import Completion, Engine, GenerateRequest, Scored, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.limits import LimitedEngine
from atts.engines.sglang import SGLangEngine
from atts.methods.chain import Model, Models, OpenChain
from atts.models.prompts import Tokenizer
from atts.runs import jobs
from atts.runs.activity import Activity
from atts.store.run_directory import RunStore
from atts.types import Author, Chain, Timings

IN_FLIGHT = (16, 256, 1_000, 10_000)
FEWEST_CHAINS = 320
SAMPLES = 16
VOCABULARY = 32_000
MOST_TOKEN_IDS = 1_000_000
"""More than any tokenizer has."""
CORPUS_BYTES = 12_000_000
AUTHORS: tuple[Author, ...] = ("draft", "target")
NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)

PARTS: tuple[tuple[Any, str, str], ...] = (
    (Tokenizer, "prompt", "prompt"),
    (Tokenizer, "encode", "tokenise"),
    (Tokenizer, "decode_whole_characters", "detokenise"),
    (atts.methods.atts, "all_scores", "scores"),
    (OnlineControl, "decide", "decision"),
    (atts.methods.chain, "seed_at", "seeds"),
    (atts.methods.chain, "find_answer", "answer"),
    (OpenChain, "record", "record"),
    (RunStore, "append", "store"),
    (DriftAlarm, "chain_done", "drift alarm"),
)
"""What is timed by itself: where it is looked up, its name, and what its part is called."""
REST = "runner, limits, asyncio"
ENGINES = "(the benchmark's engines)"


class InstantEngine:
    """Answers at once, with a piece of a given text and with given log-probabilities."""

    def __init__(self, text: list[int], tokens: int) -> None:
        self._pieces = [
            tuple(text[at : at + tokens]) for at in range(0, len(text) - tokens, tokens // 2)
        ]
        self._logprobs: NDArray[np.float64] = -np.random.default_rng(0).gamma(2.0, 0.3, 100_000)

    async def generate(self, request: GenerateRequest) -> Completion:
        await asyncio.sleep(0)  # so that all chains are in flight at a time
        return self._written(request.sampling.seed)

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
        await asyncio.sleep(0)
        return self._scored(len(token_ids) - start, hash((start, token_ids[-1], token_ids[-2])))

    async def aclose(self) -> None:
        """Nothing is open."""

    def _written(self, seed: int) -> Completion:
        return Completion(self._pieces[seed % len(self._pieces)], "length", 0, NOW)

    def _scored(self, count: int, seed: int) -> Scored:
        at = seed % (len(self._logprobs) - count)
        return Scored(self._logprobs[at : at + count], 0, NOW)


class Timers:
    """Processor time of each part, without that of the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside: list[tuple[str, float]] = []
        self._since = 0.0

    def begin(self, part: str) -> None:
        now = time.thread_time()
        if self._inside:
            self.seconds[self._inside[-1][0]] += now - self._since
        self._inside.append((part, now))
        self._since = now

    def end(self) -> None:
        now = time.thread_time()
        self.seconds[self._inside.pop()[0]] += now - self._since
        self._since = now

    def collected(self, phase: str, _: dict[str, int]) -> None:
        """For ``gc.callbacks``."""
        if phase == "start":
            self.begin("garbage collection")
        else:
            self.end()

    @contextmanager
    def around_parts(self) -> Iterator[None]:
        """Time everything in ``PARTS`` until the end of the block."""
        own = [(InstantEngine, name, ENGINES) for name in ("_written", "_scored")]
        with ExitStack() as stack:
            for owner, name, part in (*PARTS, *own):
                timed = self._timed(getattr(owner, name), part)
                stack.enter_context(mock.patch.object(owner, name, timed))
            gc.callbacks.append(self.collected)
            stack.callback(gc.callbacks.remove, self.collected)
            yield

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.begin(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.end()

        return timed


class Watch:
    """An ``Observer`` that takes the time from the first chain's start to the last one's end."""

    def __init__(self) -> None:
        self.activity = Activity()
        self.cpu = 0.0
        self.turns = 0
        self._left = 0

    def started(self, total: int, done: int) -> None:
        self._left = total - done
        self.cpu = time.process_time()

    def chain_done(self, chain: Chain) -> None:
        if chain.end != "turns":
            raise ValueError(f"a chain ended with {chain.end}: {chain.error}")
        self.turns += len(chain.turns)
        self._left -= 1
        if self._left == 0:
            self.cpu = time.process_time() - self.cpu

    def warned(self, message: str) -> None:
        """Nothing is said here."""

    def grading(self, done: int, total: int) -> None:
        """Nothing is shown here."""


class Figures(NamedTuple):
    """One size: microseconds of the processor for a turn of a chain."""

    total: float
    parts: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in-flight", type=int, action="append")
    parser.add_argument(
        "--vocabulary", action="append", help="bundled, 32k, or a folder with a model's tokenizer"
    )
    parser.add_argument("--http", action="store_true", help="by SGLang's protocol, in a process")
    parser.add_argument("--tokens", type=int, default=500, help="of a segment")
    parser.add_argument("--turns", type=int, default=8, help="of a chain")
    parser.add_argument("--rate", type=float, default=0.4, help="of take-overs")
    parser.add_argument("--overlap", choices=("on", "off"), default="off", help="writing ahead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--profile", action="store_true", help="print the functions' own times")
    arguments = parser.parse_args()
    sizes = arguments.in_flight or IN_FLIGHT
    found: dict[str, dict[int, Figures]] = {}
    for vocabulary in arguments.vocabulary or ("bundled", "32k"):
        with ExitStack() as stack:
            served = Served(vocabulary, arguments, stack)
            if arguments.profile:
                profile = cProfile.Profile()
                profile.runcall(served.run, min(sizes))
                pstats.Stats(profile).sort_stats("tottime").print_stats(30)
                continue
            served.run(16)  # warms up
            found[vocabulary] = {size: measure(served, size) for size in sizes}
        if not arguments.json:
            show(vocabulary, found[vocabulary])
    if arguments.json:
        print(json.dumps({v: {n: f._asdict() for n, f in fs.items()} for v, fs in found.items()}))


class Served:
    """A pair of models, and runs with them."""

    def __init__(self, vocabulary: str, arguments: argparse.Namespace, stack: ExitStack) -> None:
        """``stack`` ends the servers."""
        self._arguments, tokens = arguments, arguments.tokens
        text = some_reasoning(random.Random(0), 200_000)
        folder = Path(vocabulary)
        if vocabulary == "32k":
            folder = Path(stack.enter_context(TemporaryDirectory()))
            train(folder)
        self._tokenizers: dict[Author, Tokenizer] = {}
        self._engines: dict[Author, Callable[[], Engine]] = {}
        for author in AUTHORS:
            name = f"bundled/{author}" if vocabulary == "bundled" else str(folder)
            tokenizer = self._tokenizers[author] = Tokenizer.load(ModelOptions(model=name))
            ids = tokenizer.encode(text)
            if arguments.http:
                url = stack.enter_context(instant_server(ids))
                self._engines[author] = functools.partial(remote, url)
            else:
                engine = InstantEngine(ids, tokens)
                self._engines[author] = functools.partial(_same, engine)

    def run(self, in_flight: int) -> Watch:
        """A run of at least as many chains as are in flight."""
        watch = Watch()
        gc.collect()
        with TemporaryDirectory() as folder:
            asyncio.run(self._run(in_flight, Path(folder) / "run", watch))
        return watch

    async def _run(self, in_flight: int, directory: Path, watch: Watch) -> None:
        config = configuration(in_flight, self._arguments)
        limits = config.limits
        served: Models = {
            author: Model(
                LimitedEngine(
                    self._engines[author](), in_flight, limits.attempts, limits.backoff_seconds
                ),
                tokenizer,
            )
            for author, tokenizer in self._tokenizers.items()
        }
        try:
            await jobs.run(config, served, directory, watch)
        finally:
            for model in served.values():
                await model.engine.aclose()


def remote(url: str) -> Engine:
    """The engine of SGLang over a server."""
    options = ModelOptions(model="m", engine="sglang", urls=(url,))
    return SGLangEngine(HttpClient(url, "m"), options, MOST_TOKEN_IDS, frozenset())


def _same(engine: Engine) -> Engine:
    return engine


def configuration(in_flight: int, arguments: argparse.Namespace) -> Config:
    tokens = arguments.tokens
    return parse_config(
        {
            "problems": {"count": -(-max(in_flight, FEWEST_CHAINS) // SAMPLES)},
            "samples": SAMPLES,
            "turns": {
                "max_turns": arguments.turns,
                "draft_tokens": tokens,
                "target_tokens": tokens,
            },
            "take_over": {"control": "online", "rate": arguments.rate},
            "limits": {
                "overlap": arguments.overlap,
                "chains": in_flight,
                "draft_requests": in_flight,
                "target_requests": in_flight,
            },
        },
        "the benchmark",
        FORMER_DEFAULTS,
    )


def measure(served: Served, in_flight: int) -> Figures:
    """The total of a run as it is, and the parts of another one."""
    plain = served.run(in_flight)
    timers = Timers()
    with timers.around_parts():
        watch = served.run(in_flight)
    parts = {part: 1e6 * seconds / watch.turns for part, seconds in timers.seconds.items()}
    parts[REST] = 1e6 * watch.cpu / watch.turns - sum(parts.values())
    return Figures(1e6 * plain.cpu / plain.turns, parts)


def some_reasoning(rng: random.Random, length: int) -> str:
    """Text like that of a model that reasons about mathematics, without a box."""
    sentences = (
        "So we have \\( x_{%d} = \\frac{%d}{%d} \\), which means that %d is a factor.\n",
        "Wait, let me check that again: %d + %d = %d, and then we divide by %d.\n\n",
        "Therefore the sum of the first %d terms is $\\sqrt{%d} \\cdot \\left(%d - %d\\right)$. ",
        "Hmm, but if $n = %d$, the remainder is %d, not %d; maybe I should try %d instead. ",
        "Let's denote by S the set \\{%d, %d, %d, %d\\} and count its subsets.\n",
    )
    written = ""
    while len(written) < length:
        numbers = tuple(rng.randrange(1, 1000) for _ in range(4))
        written += "".join(sentence % numbers for sentence in rng.sample(sentences, 5))
    return written


def train(folder: Path) -> None:
    """A byte-level BPE of 32,000 tokens, as large models have them, from Python's own sources."""
    corpus: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        corpus.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(corpus[-1])
        if size > CORPUS_BYTES:
            break
    fast = FastTokenizer(models.BPE())
    words = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.train_from_iterator(
        [*corpus, some_reasoning(random.Random(1), 500_000)],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|user|>", "<|assistant|>", "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|user|>{{ m['content'] }}\n{% endfor %}<|assistant|>"
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|end|>",
                "chat_template": template,
            }
        )
    )
    config = {"model_type": "llama", "vocab_size": fast.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))


def show(vocabulary: str, figures: dict[int, Figures]) -> None:
    first = next(iter(figures.values()))
    table = Table(
        "us of CPU a turn",
        *(f"{size:,} chains" for size in figures),
        title=f"vocabulary: {vocabulary}",
    )
    for part in sorted(first.parts, key=lambda part: -first.parts[part]):
        table.add_row(part, *(f"{f.parts.get(part, 0.0):,.1f}" for f in figures.values()))
    table.add_section()
    table.add_row("total, without timers", *(f"{f.total:,.0f}" for f in figures.values()))
    table.add_row("x the first size", *(f"{f.total / first.total:.2f}" for f in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
