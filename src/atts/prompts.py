"""Prompts as token ids: the chat template and tokenizer of each model.

The template is applied once, to the problem. After that a chain only ever appends: its past
is never tokenised again, and text crosses from one model to the other a segment at a time.
"""

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from atts.config import ModelOptions, PromptOptions, Thinking
from atts.errors import ConfigError
from atts.grading.extract import LETTERS
from atts.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AN_ANSWER = "An answer of the model."
_ROUND_TRIP_PROBE = " 12 + 3 = 15.\n\nSo \\boxed{15}"


class Tokenizer:
    """A model's tokenizer and chat template."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", name: str, thinking: Thinking = "template"
    ) -> None:
        """Wrap a transformers tokenizer; ``thinking`` is ``ModelOptions.thinking``.

        Raises:
            ConfigError: it has no chat template, or changes text that it encodes and decodes.
        """
        self._tokenizer = tokenizer
        self._thinking = thinking
        self.name = name
        if not tokenizer.chat_template:
            raise ConfigError(f"{name}: the tokenizer has no chat template; is it a chat model?")
        if self.decode(self.encode(_ROUND_TRIP_PROBE)) != _ROUND_TRIP_PROBE:
            raise ConfigError(
                f"{name}: the tokenizer does not give back the text that it encodes, so text "
                "could not cross between two models; a byte-level tokenizer does"
            )

    @classmethod
    def load(cls, options: ModelOptions) -> "Tokenizer":
        """Load the tokenizer of a model from a folder or the Hugging Face hub.

        Raises:
            ConfigError: there is none, or it is unfit; see ``Tokenizer``.
        """
        from transformers import AutoTokenizer  # takes seconds, where PyTorch is installed

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                model_path(options.model),
                # Without this, transformers asks on the terminal whether to run code of its own.
                trust_remote_code=False,
            )
        except ConfigError:
            raise
        except Exception as error:  # the tokenizers library raises bare exceptions
            raise ConfigError(f"cannot load the tokenizer of {options.model}: {error}") from error
        return cls(tokenizer, options.model, options.thinking)

    def prompt(self, problem: Problem, options: PromptOptions) -> list[int]:
        """Ids of the problem in the model's chat template, ready for the model's answer.

        Raises:
            ConfigError: the template refuses the messages; some know no system message.
        """
        messages = [{"role": "user", "content": question(problem, options)}]
        if options.system:
            messages.insert(0, {"role": "system", "content": options.system})
        # The template writes the special tokens itself, the beginning of text included.
        return self._ids_with_specials(self._render(messages))

    def next_message(self, message: str, reply: str) -> list[int]:
        """Ids of what follows the model's answer, where the user writes again and the model is
        about to go on with ``reply``.

        They are put after the token ids of a chain, whatever it holds: the chain itself never
        passes through the chat template again, which might change it.

        Raises:
            ConfigError: the template refuses the messages, or shows no answer of the model's.
        """
        _, found, after = self._render(
            [
                {"role": "user", "content": "question"},
                {"role": "assistant", "content": _AN_ANSWER},
                {"role": "user", "content": message},
            ]
        ).partition(_AN_ANSWER)
        if not found:
            raise ConfigError(
                f"{self.name}: the chat template does not show what the model has answered, so "
                "it cannot be asked about it"
            )
        return self._ids_with_specials(after) + self.encode(reply)

    def _render(self, messages: list[dict[str, str]]) -> str:
        """Messages in the chat template, up to where the model goes on."""
        from jinja2 import TemplateError  # what transformers renders chat templates with

        # Some templates know this variable; the others pass over it.
        known: dict[str, Any] = {}
        if self._thinking != "template":
            known["enable_thinking"] = self._thinking == "on"
        try:
            text = str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **known
                )
            )
        except TemplateError as error:
            raise ConfigError(
                f"{self.name}: the chat template refuses the prompt: {error}; if it is the system "
                "message, set prompt.system to an empty text"
            ) from error
        return _begin_thought(text, self._thinking)

    def _ids_with_specials(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode(self, text: str) -> list[int]:
        """Ids of text in the middle of a chain; what looks like a special token is plain text."""
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return ids

    def decode(self, token_ids: list[int]) -> str:
        text: Any = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def decode_whole_characters(self, token_ids: list[int]) -> tuple[list[int], str]:
        """Decode, leaving out last tokens that end in the middle of a character.

        A segment that is cut at a token limit may end so; the other model could not read it.
        """
        ids = list(token_ids)
        text = self.decode(ids)
        # A character has at most four bytes, so more than three such tokens are real text.
        for dropped in range(1, 4):
            if not text.endswith("\ufffd"):
                break
            shorter = token_ids[: len(token_ids) - dropped]
            ids, text = shorter, self.decode(shorter)
        return ids, text


def question(problem: Problem, options: PromptOptions | None = None) -> str:
    """What the user message says.

    >>> from atts.types import Problem
    >>> print(question(Problem(id="1", question="Which?", answer="B", choices=("x", "y"))))
    Which?
    <BLANKLINE>
    A. x
    B. y
    <BLANKLINE>
    Exactly one option is right. Put its letter in \\boxed{}.
    """
    options = options or PromptOptions()
    choices = [
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False)
    ]
    parts = {"{question}": problem.question, "{choices}": "\n".join(choices)}
    template = options.multiple_choice if problem.choices else options.open
    # In one pass: a question may speak of {choices} itself.
    return re.sub(r"\{question\}|\{choices\}", lambda match: parts[match[0]], template)


def _begin_thought(prompt: str, thinking: Thinking) -> str:
    """The prompt, so that the model's turn begins inside a thought, or after an empty one.

    >>> _begin_thought("<|user|>1+1?<|assistant|>", "on")
    '<|user|>1+1?<|assistant|><think>\\n'
    >>> _begin_thought("<|user|>1+1?<|assistant|><think>\\n", "off")
    '<|user|>1+1?<|assistant|><think>\\n\\n</think>\\n\\n'
    """
    end = prompt.rstrip()
    opened = end.endswith("<think>")
    if thinking == "on" and not opened:
        return prompt + "<think>\n"
    if thinking == "off" and opened:
        return end + "\n\n</think>\n\n"
    if thinking == "off" and not end.endswith("</think>"):
        return prompt + "<think>\n\n</think>\n\n"
    return prompt


def model_path(model: str) -> str:
    """Where a model lies: the bundled ones are part of the package.

    Raises:
        ConfigError: there is no bundled model of that name.
    """
    owner, _, name = model.partition("/")
    if owner != "bundled":
        return model
    folder = files("atts") / "assets" / name
    if name not in ("draft", "target"):
        raise ConfigError(f"{model}: the bundled models are bundled/draft and bundled/target")
    return str(folder)
