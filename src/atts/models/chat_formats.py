"""Chat formats of families that give code in place of a template, for messages without tools."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from atts.config import ChatFormatName
from atts.errors import ConfigError
from atts.package import install

Messages = Sequence[Mapping[str, Any]]


class ChatFormat(Protocol):
    """Turns messages into a prompt."""

    @property
    def variables(self) -> frozenset[str]:
        """What it may be told beside the messages, by name."""
        ...

    def render(self, messages: Messages, **variables: object) -> str:
        """The prompt, up to where the model's answer begins.

        Raises:
            jinja2.TemplateError: it refuses the messages or a variable.
        """
        ...


def chat_format(name: ChatFormatName) -> "ChatFormat | None":
    """The format of that name; None is the model's own template.

    Raises:
        ConfigError: it needs what is not there; see ``Harmony``.
    """
    if name == "harmony":
        return Harmony()
    return DeepSeekV32() if name == "deepseek-v3.2" else None


class DeepSeekV32:
    """DeepSeek-V3.2 comes with an encoder in Python (``encoding_dsv32.py``) and no template.

    >>> DeepSeekV32().render([{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}])
    '<\uff5cbegin\u2581of\u2581sentence\uff5c>S<\uff5cUser\uff5c>Q<\uff5cAssistant\uff5c><think>'
    """

    variables = frozenset({"thinking"})

    def render(self, messages: Messages, **variables: object) -> str:
        """The prompt: it thinks about the newest question unless ``thinking`` is false."""
        newest = max((i for i, each in enumerate(messages) if each["role"] == "user"), default=-1)
        parts = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>"]
        for index, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role == "system":
                parts.append(content)
            elif role == "user":
                thinks = index == newest and variables.get("thinking", True)
                mark = "<think>" if thinks else "</think>"
                parts.append(f"<\uff5cUser\uff5c>{content}<\uff5cAssistant\uff5c>{mark}")
            elif role == "assistant" and index < newest:
                parts.append(f"{content}<\uff5cend\u2581of\u2581sentence\uff5c>")
            else:
                raise TemplateError(f"there is no place for a message of {role!r} here")
        return "".join(parts)


class Harmony:
    """gpt-oss, by the ``openai-harmony`` package; the system message is what it calls the
    developer's. Without ``conversation_start_date`` a prompt is the same on every day.
    """

    variables = frozenset(
        {"reasoning_effort", "conversation_start_date", "knowledge_cutoff", "model_identity"}
    )

    def __init__(self) -> None:
        """Load the package and its vocabulary.

        Raises:
            ConfigError: one of the two is not there.
        """
        try:
            import openai_harmony
        except ModuleNotFoundError:
            raise ConfigError(
                f"chat_format=harmony needs the openai-harmony package: {install('harmony')}"
            ) from None
        self._harmony = openai_harmony
        try:
            self._encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
        except Exception as error:  # of the network, or of a file
            raise ConfigError(
                f"openai-harmony cannot load its vocabulary: {error}; without a network, set "
                "TIKTOKEN_ENCODINGS_BASE to a folder with o200k_base.tiktoken"
            ) from error

    def token_ids(self, messages: Messages, **variables: object) -> list[int]:
        """The prompt as ids, in which nothing that the user says is a mark.

        Raises:
            jinja2.TemplateError: it refuses a message or a variable.
        """
        harmony = self._harmony
        try:
            conversation = [
                harmony.Message.from_role_and_content(harmony.Role.SYSTEM, self._system(variables)),
                *map(self._message, messages),
            ]
            ids: list[int] = self._encoding.render_conversation_for_completion(
                harmony.Conversation.from_messages(conversation), harmony.Role.ASSISTANT
            )
        except Exception as error:
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return ids

    def render(self, messages: Messages, **variables: object) -> str:
        """The same as text."""
        text: str = self._encoding.decode(self.token_ids(messages, **variables))
        return text

    def _system(self, variables: Mapping[str, object]) -> Any:  # noqa: ANN401 - of the package
        told = dict(variables)
        if "reasoning_effort" in told:
            told["reasoning_effort"] = str(told["reasoning_effort"]).capitalize()
        return self._harmony.SystemContent(**told)

    def _message(self, message: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the package
        harmony, role, content = self._harmony, message["role"], message["content"]
        if role == "system":
            instructions = harmony.DeveloperContent.new().with_instructions(content)
            return harmony.Message.from_role_and_content(harmony.Role.DEVELOPER, instructions)
        made = harmony.Message.from_role_and_content(harmony.Role(role), content)
        return made.with_channel("final") if role == "assistant" else made
