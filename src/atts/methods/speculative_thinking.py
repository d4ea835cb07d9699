"""Speculative Thinking (arXiv 2504.12329): the target guides the thought of the draft.

The draft stops at blank lines. Where it is about to affirm, to reflect or to verify, the target
writes a few tokens; after a verification, or many reflections, it writes more.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from atts.config import Options
from atts.errors import ConfigError
from atts.methods.chain import OpenChain, Written
from atts.methods.method import Method
from atts.types import ChainEnd

# How the YAML files of the authors' project name what are options here:
# https://github.com/uservan/speculative_thinking, folder speculative/config.
_OPTIONS = {
    "TRIGGER_TOKENS": ("triggers",),
    "help_think_word": ("think_words",),
    "help_recap_words": ("recap_words",),
    "choose_large": ("choose_target",),
    "not_reasoning": ("always_ask",),
    "max_target_tokens": ("target_tokens",),
    "begin": ("begin",),
    "begin_token_num": ("begin_tokens",),
    "original_recap_token_num": ("recap_tokens", "verify_tokens"),
    "add_each_recap": ("recap_tokens_step",),
    "max_recap_token_num": ("recap_tokens_most",),
    "recap_after_negative_num": ("recap_after",),
    "add_each_neg": ("recap_after_step",),
    "max_negative_num": ("recap_after_most",),
    "time_out": ("time_out_seconds",),
}
_WORDS = {"verify": "verify", "negative": "reflect", "positive": "affirm"}
_MODELS = {"target": "target", "speculative": "draft"}
_ENGINES = {"vllm": "vllm", "hf": "inprocess"}
_KNOWN = {
    *_OPTIONS,
    "TARGET_VALIDATION_KEYWORDS",
    "mode",
    *(f"{model}_model_{key}" for model in _MODELS for key in ("name", "gpu")),
}


class SpeculativeThinkingOptions(Options):
    """``method=speculative-thinking``; the defaults are those of its authors."""

    triggers: tuple[str, ...] = Field(default=("\n\n",), min_length=1)
    """Where the draft stops, so that the target may take over."""
    draft_tokens: int = Field(default=1024, ge=1)
    """Most tokens that the draft writes without a trigger."""
    target_tokens: int = Field(default=20, ge=1)
    """Tokens that both models write after a trigger, and of which one text is kept."""
    choose_target: bool = True
    """Keep the target's text whenever it is asked; otherwise only if it disagrees with the draft's:
    one affirms, the other reflects."""
    always_ask: bool = False
    """Ask the target at every trigger, not only where the draft affirms, reflects or verifies; for
    drafts that were not trained to reason."""
    affirm: tuple[str, ...] = ("yeah", "yes", "final answer", "confident")
    """Words of affirmation; also within others, and in whatever case."""
    reflect: tuple[str, ...] = ("wait", "alternatively", "hold on", "another")
    """Words of reflection."""
    verify: tuple[str, ...] = ("verify", "think again", "recap", "check")
    """Words of verification; after a text that has one the target writes on."""
    think_words: str = ""
    """What is put before the text that follows a trigger."""
    verify_tokens: int = Field(default=125, ge=1)
    """Tokens that the target writes after a verification."""
    begin: bool = False
    """The target begins the chain."""
    begin_tokens: int = Field(default=100, ge=1)
    """Tokens that it begins with."""
    recap_words: str = "Let me check whether there are some wrong steps:"
    """How the target begins a recap, after too many reflections."""
    recap_tokens: int = Field(default=125, ge=1)
    """Tokens of the first recap."""
    recap_tokens_step: int = Field(default=25, ge=0)
    """How much longer each recap is than the one before."""
    recap_tokens_most: int = Field(default=200, ge=1)
    """Tokens of the longest recap."""
    recap_after: int = Field(default=15, ge=1)
    """Reflections before the first recap."""
    recap_after_step: int = Field(default=5, ge=0)
    """How many more reflections there are before each further recap."""
    recap_after_most: int = Field(default=30, ge=1)
    """Most reflections before a recap."""
    time_out_seconds: float | None = Field(default=None, gt=0.0)
    """A chain that has taken so long is given up as it stands, when its request has come back;
    null sets no limit. With one, results depend on the speed of the machine."""


async def speculative_thinking(chain: OpenChain) -> ChainEnd:
    """The draft writes; at triggers the target may take over for a bounded number of tokens."""
    options = chain.config.of(SpeculativeThinkingOptions)
    clock = asyncio.get_running_loop().time
    began = clock()
    target_begins = options.begin
    reflections, recap_after, recap_tokens = 0, options.recap_after, options.recap_tokens
    while chain.tokens_left:
        if options.time_out_seconds and clock() - began > options.time_out_seconds:
            return "time-out"
        before = chain.tokens
        if target_begins:
            written = await _target_writes(chain, options.begin_tokens)
            target_begins = False
        else:
            written = await chain.generate(
                "draft", min(options.draft_tokens, chain.tokens_left), stop=options.triggers
            )
            chain.append(written)
            if written.at_stop_string and chain.tokens_left and not chain.has_concluded:
                if reflections >= recap_after:
                    written = await _target_writes(chain, recap_tokens, options.recap_words)
                    reflections = 0
                    recap_tokens = min(
                        recap_tokens + options.recap_tokens_step, options.recap_tokens_most
                    )
                    recap_after = min(
                        recap_after + options.recap_after_step, options.recap_after_most
                    )
                else:
                    written, reflects = await _consult(chain, written)
                    reflections += reflects
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        if written.is_last or chain.tokens == before:  # nothing more comes, and would for ever
            return chain.stopped()
    return "turns"


async def _consult(chain: OpenChain, written: Written) -> tuple[Written, bool]:
    """Look at what the draft would write next, and perhaps let the target write that.

    Returns:
        What the chain now ends with (``written``, if nothing was added), and whether what was
        added reflects.
    """
    options = chain.config.of(SpeculativeThinkingOptions)

    def mood_of(text: str) -> int:
        return mood(text.removeprefix(options.think_words), options)

    most = min(options.target_tokens, chain.tokens_left)
    drafted = await chain.generate("draft", most, begin_with=options.think_words)
    kept_mood = mood_of(drafted.segment.text)
    if not (kept_mood or options.always_ask):
        chain.discard(drafted)  # the draft goes on to the next trigger by itself
        return written, False
    guided = await chain.generate("target", most, begin_with=options.think_words)
    targets_mood = mood_of(guided.segment.text)
    disagree = (kept_mood < 0 <= targets_mood) or (targets_mood < 0 < kept_mood)
    if options.choose_target or disagree:
        chain.discard(drafted)
        kept, kept_mood = guided, targets_mood
    else:
        chain.discard(guided)
        kept = drafted
    chain.append(kept)
    verifies = count(kept.segment.text.removeprefix(options.think_words), options.verify) > 0
    if verifies and chain.tokens_left and not kept.is_last:
        kept = await _target_writes(chain, options.verify_tokens)
    return kept, kept_mood < 0


async def _target_writes(chain: OpenChain, max_tokens: int, begin_with: str = "") -> Written:
    most = min(max_tokens, chain.tokens_left)
    written = await chain.generate("target", most, begin_with=begin_with)
    chain.append(written)
    return written


def mood(text: str, options: SpeculativeThinkingOptions) -> int:
    """1 for a text that mostly affirms, -1 for one that reflects or verifies, 0 for neither.

    What occurs more often counts, a word within a word too; of equally many, the latter.

    >>> options = SpeculativeThinkingOptions()
    >>> [mood(text, options) for text in ("Yes, so", "Wait, yes", "Two plus two")]
    [1, -1, 0]
    """
    affirming = count(text, options.affirm)
    doubting = count(text, options.reflect + options.verify)
    if affirming > doubting:
        return 1
    return -1 if doubting else 0


def count(text: str, words: Iterable[str]) -> int:
    """How often the words occur, in whatever case."""
    text = text.lower()
    return sum(text.count(word.lower()) for word in words)


def from_original(tree: dict[str, Any], source: str) -> dict[str, Any] | None:
    """A YAML file of the authors' project as a tree of our keys; None if it is no such file.

    Without a speculative model it is ``target-only``.

    >>> from_original({"target_model_name": "T", "TRIGGER_TOKENS": [";"], "time_out": -1}, "a file")
    {'method': 'speculative-thinking', 'target': {'model': 'T'}, \
'speculative_thinking': {'triggers': [';'], 'time_out_seconds': None}}

    Raises:
        ConfigError: it has keys that neither that project nor its files know, or words of a kind
            that is not known.
    """
    if "target_model_name" not in tree and "TRIGGER_TOKENS" not in tree:
        return None
    if unknown := sorted(map(str, tree.keys() - _KNOWN)):
        raise ConfigError(
            f"{source} looks like a file of Speculative Thinking, but has unknown keys: "
            f"{', '.join(unknown)}"
        )
    translated: dict[str, Any] = {"method": "speculative-thinking"}
    if "speculative_model_name" in tree and tree["speculative_model_name"] is None:
        translated["method"] = "target-only"
    for theirs, ours in _MODELS.items():
        model: dict[str, Any] = {}
        if name := tree.get(f"{theirs}_model_name"):
            model["model"] = name
        if gpus := tree.get(f"{theirs}_model_gpu"):
            model["server"] = {"tensor_parallel": gpus}
        if "mode" in tree:
            model["engine"] = _ENGINES.get(tree["mode"], tree["mode"])
        if model:
            translated[ours] = model
    options: dict[str, Any] = {
        name: tree[key] for key, names in _OPTIONS.items() if key in tree for name in names
    }
    if "think_words" in options:
        options["think_words"] = options["think_words"] or ""
    if "time_out_seconds" in options and (options["time_out_seconds"] or 0) <= 0:
        options["time_out_seconds"] = None  # theirs is off at 0 and below
    words = tree.get("TARGET_VALIDATION_KEYWORDS", {})
    if not isinstance(words, dict) or words.keys() - _WORDS.keys():
        raise ConfigError(
            f"{source}: TARGET_VALIDATION_KEYWORDS holds lists of words under {', '.join(_WORDS)}"
        )
    options |= {_WORDS[kind]: listed for kind, listed in words.items()}
    if options:
        translated["speculative_thinking"] = options
    return translated


METHOD = Method(
    name="speculative-thinking",
    solve=speculative_thinking,
    options=SpeculativeThinkingOptions,
    translate=from_original,
    takes_over=True,
)
