"""Prompts as token ids: the chat template and tokenizer of each model.

The template is applied once, to the problem. After that a chain only ever appends: its past
is never tokenised again, and text crosses from one model to the other a segment at a time.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import tokenizers
from jinja2 import TemplateError

from atts.config import ModelOptions, PromptOptions, Thinking
from atts.errors import ConfigError
from atts.models.chat_formats import ChatFormat, Harmony, chat_format
from atts.models.model_files import ChatTemplate, model_folder, read_tokenizer
from atts.models.thought import opens_thought, special_marks
from atts.text import shortened
from atts.types import LETTERS, Message, Problem

_AN_ANSWER = "An answer of the model."
_LONGEST_MARK = 64
"""Tokens at the end of a prompt that may be the mark of a thought."""
_THINKING_VARIABLES = ("enable_thinking", "thinking")
"""What templates call whether the model thinks: Qwen3 and GLM the first, DeepSeek the second."""
_HARMONY_TURN = "<|start|>assistant"
_SHOWN = 300
"""Characters of a prompt that a message quotes."""
_QUESTION_PROBE = 'What is 17 + 25?\n\nLet \\(x < y\\) & "z" be {{ 3 }}.'
_ROUND_TRIP_PROBE = " 12 + 3 = 15.\n\nSo \\boxed{15}"

_log = logging.getLogger(__name__)


class _Wording(NamedTuple):
    """How a chat template wants its messages."""

    user: str = "user"
    """What it calls the user."""
    in_parts: bool = False
    """Whether content is a list of parts, as of templates that take images."""

    def of(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, object]]:
        return [
            {
                "role": self.user if message["role"] == "user" else message["role"],
                "content": (
                    [{"type": "text", "text": message["content"]}]
                    if self.in_parts
                    else message["content"]
                ),
            }
            for message in messages
        ]


class Tokenizer:
    """A model's tokenizer and chat template."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        template: ChatFormat | None,
        name: str,
        thinking: Thinking = "template",
        thought_ends: Iterable[str] | None = None,
        variables: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Wrap a tokenizer and a chat template.

        ``thinking``, ``thought_ends`` and ``variables`` are those of ``ModelOptions``, the last as
        ``chat_template_kwargs``.

        Raises:
            ConfigError: there is no template, it leaves out the question or does not know a
                variable, or the tokenizer changes text that it encodes and decodes.
        """
        self._tokenizer = tokenizer
        self._thinking = thinking
        special = {
            token.content: token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        # Decoding drops special tokens, but these tell where a thought ends.
        self._marks = {special[mark]: mark for mark in special_marks(special, thought_ends)}
        self._newest: tuple[Problem, PromptOptions, list[int]] | None = None
        self.name = name
        if template is None:
            raise ConfigError(
                f"{name}: the tokenizer has no chat template",
                mend="name a chat model, or put its chat_template.jinja into its folder; for "
                "DeepSeek-V3.2 and gpt-oss, set chat_format",
            )
        self._template = template
        self._variables = self._known_variables(variables)
        self._wording = self._wording_of_template()
        self._has_warned = False
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
        try:
            folder = model_folder(options.model)
            tokenizer = read_tokenizer(folder)
            template = chat_format(options.chat_format) or ChatTemplate.read(folder)
        except Exception as error:  # the tokenizers library raises bare exceptions
            found, mend = f"{error}", ""
            if isinstance(error, ConfigError):
                if error.found.startswith(options.model):
                    raise
                found, mend = error.found, error.mend
            raise ConfigError(
                f"cannot load the tokenizer of {options.model}: {found}", mend=mend
            ) from error
        return cls(
            tokenizer,
            template,
            options.model,
            options.thinking,
            options.thought_ends,
            options.chat_template_kwargs,
        )

    @cached_property
    def vocabulary(self) -> str:
        """Hash of all tokens and their ids: two models with the same one can read each other's."""
        tokens = sorted(self._tokenizer.get_vocab().items())
        return hashlib.sha256(repr(tokens).encode()).hexdigest()

    def prompt(self, problem: Problem, options: PromptOptions) -> list[int]:
        """Ids of the problem in the model's chat template, ready for the model's answer.

        Raises:
            ConfigError: the template refuses the messages, as some do a system message, or leaves
                out the question.
        """
        # The chains of a problem begin one after the other, with the same prompt.
        if self._newest is None or self._newest[:2] != (problem, options):
            self._newest = (problem, options, self._encode_prompt(problem, options))
        return list(self._newest[2])

    def _encode_prompt(self, problem: Problem, options: PromptOptions) -> list[int]:
        shown = [message.model_dump() for message in messages(problem, options)]
        text = self._render(shown)
        if not _holds(text, shown[-1]["content"]):
            raise self._loses(shown[-1]["content"], text)
        if not self._has_warned and not all(
            _holds(text, each["content"]) for each in shown if each["role"] == "system"
        ):
            self._has_warned = True
            _log.warning(
                "%s: the chat template leaves out the system message; what prompt.system says can "
                "stand in prompt.open",
                self.name,
            )
        prompt = _begin_thought(text, self._thinking)
        if isinstance(self._template, Harmony):
            ids = self._template.token_ids(self._wording.of(shown), **self._variables)
            if self._tokenizer.decode(ids, skip_special_tokens=False) != text:
                raise ConfigError(f"{self.name}: its tokenizer is not that of gpt-oss")
            return ids + self._encode(prompt.removeprefix(text), specials_are_text=False)
        # The template writes the special tokens itself, the beginning of text included.
        return self._encode(prompt, specials_are_text=False)

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
        if not found or not _holds(after, message):
            raise ConfigError(
                f"{self.name}: the chat template does not show what the model has answered, so "
                "it cannot be asked about it"
            )
        after = _begin_thought(after, self._thinking)
        return self._encode(after, specials_are_text=False) + self.encode(reply)

    def _render(self, messages: list[dict[str, str]]) -> str:
        """Messages in the chat template, up to where the model goes on."""
        try:
            return self._render_as(self._wording, messages)
        except TemplateError as error:
            raise ConfigError(
                f"{self.name}: the chat template refuses the prompt: {shortened(str(error))}; if "
                "it is the system message, set prompt.system to an empty text"
            ) from error

    def _render_as(self, wording: _Wording, messages: Sequence[Mapping[str, str]]) -> str:
        return self._template.render(wording.of(messages), **self._variables)

    def _known_variables(self, given: Mapping[str, object]) -> dict[str, object]:
        """What the template is told beside the messages.

        Raises:
            ConfigError: it does not know one of ``given``, or ``thinking`` says otherwise.
        """
        if not given and self._thinking == "template":
            return {}
        known = self._template.variables
        if unknown := sorted(given.keys() - known):
            names = shortened(", ".join(unknown))
            raise ConfigError(
                f"{self.name}: its chat template does not know {names}, which chat_template_kwargs "
                f"names; it knows {', '.join(sorted(known)) or 'nothing'}"
            )
        by_thinking: dict[str, object] = {}
        if self._thinking != "template":
            thinks = self._thinking == "on"
            by_thinking = {name: thinks for name in _THINKING_VARIABLES if name in known}
        if twice := sorted(by_thinking.keys() & given.keys()):
            raise ConfigError(
                f"{self.name}: thinking and chat_template_kwargs.{twice[0]} are the same; leave "
                "one of the two out"
            )
        return {**by_thinking, **given}

    def _wording_of_template(self) -> _Wording:
        """The first in which the template shows what the user says.

        Raises:
            ConfigError: it shows it in none.
        """
        usual, prompt = _Wording(), None
        for in_parts, user in product((False, True), ("user", "human")):
            wording = _Wording(user, in_parts)
            try:
                text = self._render_as(wording, [{"role": "user", "content": _QUESTION_PROBE}])
            except TemplateError:
                continue
            if _holds(text, _QUESTION_PROBE):
                return wording
            if wording == usual:
                prompt = text
        if prompt is not None:
            raise self._loses(_QUESTION_PROBE, prompt)
        return usual  # it may want a system message; what it wants, it tells of the real prompt

    def _loses(self, asked: str, prompt: str) -> ConfigError:
        return ConfigError(
            f"{self.name}: the chat template loses the question. Asked: "
            f"'{shortened(asked, _SHOWN)}'. Its prompt: '{shortened(prompt, _SHOWN)}'. Put a "
            "template that shows the question, as chat_template.jinja, in the model's folder"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of text in the middle of a chain; what looks like a special token is plain text."""
        return self._encode(text, specials_are_text=True)

    def _encode(self, text: str, specials_are_text: bool) -> list[int]:
        self._tokenizer.encode_special_tokens = specials_are_text
        # The fast way leaves out where in the text each token stands, which nobody asks for.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, without special tokens but those that mark a thought."""
        if self._marks.keys().isdisjoint(token_ids):
            return self._tokenizer.decode(token_ids, skip_special_tokens=True)
        parts, begin = [], 0
        for index, token_id in enumerate(token_ids):
            if token_id in self._marks:
                parts += [self._decode(token_ids[begin:index]), self._marks[token_id]]
                begin = index + 1
        return "".join([*parts, self._decode(token_ids[begin:])])

    def spell(self, token_ids: list[int]) -> str:
        """The text of token ids, with every special token written out."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True) if token_ids else ""

    def is_in_thought(self, prompt: list[int]) -> bool:
        """Whether a prompt leaves the model inside a thought."""
        tail = self._tokenizer.decode(prompt[-_LONGEST_MARK:], skip_special_tokens=False)
        return opens_thought(tail)

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


def _holds(prompt: str, message: str) -> bool:
    """Whether a prompt shows a message, but for white space, or shows it as JSON.

    >>> _holds("<|user|>\\n1 + 1?<|end|>", "1 + 1?\\n"), _holds("<|user|><|end|>", "1 + 1?")
    (True, False)
    """
    shown = " ".join(prompt.split())
    as_json = (json.dumps(message, ensure_ascii=escaped)[1:-1] for escaped in (False, True))
    return any(" ".join(form.split()) in shown for form in (message, *as_json))


def messages(problem: Problem, options: PromptOptions) -> list[Message]:
    """What both models are shown, each in its own chat template.

    Raises:
        ConfigError: there are more choices than letters.

    >>> for each in messages(Problem(id="1", question="1 + 1?"), PromptOptions(system="Add.")):
    ...     print(each.role, each.content)
    system Add.
    user 1 + 1?
    """
    shown = list(problem.messages)
    if not shown:
        shown.append(Message(role="user", content=question(problem, options)))
    system = options.program_system if problem.tests else options.system
    if system and all(message.role != "system" for message in shown):
        shown.insert(0, Message(role="system", content=system))
    return shown


def question(problem: Problem, options: PromptOptions | None = None) -> str:
    """What the user message says.

    Raises:
        ConfigError: there are more choices than letters.

    >>> from atts.types import LETTERS, Problem
    >>> print(question(Problem(id="1", question="Which?", answer="B", choices=("x", "y"))))
    Which?
    <BLANKLINE>
    A. x
    B. y
    <BLANKLINE>
    Exactly one option is right. Put its letter in \\boxed{}.
    """
    options = options or PromptOptions()
    if len(problem.choices) > len(LETTERS):
        raise ConfigError(
            f"the problem {problem.id!r} has {len(problem.choices)} choices, but there are letters "
            f"for {len(LETTERS)}"
        )
    choices = [
        f"{letter}. {choice}" for letter, choice in zip(LETTERS, problem.choices, strict=False)
    ]
    parts = {"{question}": problem.question, "{choices}": "\n".join(choices)}
    template = options.multiple_choice if problem.choices else options.open
    if problem.tests:
        template = options.program
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
    if end.endswith(_HARMONY_TURN):
        channel = {"on": "<|channel|>analysis<|message|>", "off": "<|channel|>final<|message|>"}
        return prompt + channel.get(thinking, "")
    if thinking == "on" and not opened:
        return prompt + "<think>\n"
    if thinking == "off" and opened:
        return end + "\n\n</think>\n\n"
    if thinking == "off" and not end.endswith("</think>"):
        return prompt + "<think>\n\n</think>\n\n"
    return prompt
