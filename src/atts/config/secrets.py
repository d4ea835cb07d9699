"""What must not be written down or repeated: API keys, passwords, the values of environments.

They reach a server and nothing else: ``config.yaml``, reports, messages, the ends of logs and
command lines to go on with hold ``***`` or nothing in their place.
"""

import os
import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import PlainSerializer, SecretStr

from atts.errors import ConfigError

HIDDEN = "***"

Secret = Annotated[SecretStr, PlainSerializer(lambda _: None, when_used="json")]
"""A text that is null where it is written down."""

# A name has an end, so that a line of a thousand dashes is not searched from each of them.
_NAME = r"(?:[\w.-]{0,40}[_.-])?(?:api[_-]?key|key|token|secret|passw(?:or)?d|credentials?|auth)"
_OPTION = re.compile(rf"--?{_NAME}", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_WORDS = (
    # Names and values as programs print them; a number of tokens is no token.
    re.compile(
        r"(?P<name>(?:\b|_)(?:api[_-]?key|token|secret|passw(?:or)?d|credentials?|authorization)"
        r"['\"]?(?:\s*[:=]\s*|\s+(?=['\"]))\[?['\"]?(?:(?:Bearer|Basic)\s+)?)"
        r"(?!(?:[\d.]+|none|null|true|false)\b)(?P<value>[^\s'\",\])}]+)",
        re.IGNORECASE,
    ),
    re.compile(rf"(?P<name>(?<![\w.-])--{_NAME}(?:=|\s+))(?!-)(?P<value>\S+)", re.IGNORECASE),
    re.compile(r"(?P<name>\bBearer\s+)(?P<value>[\w.~+/=-]{8,})"),
    re.compile(r"(?P<name>\b)(?P<value>(?:hf_|sk-)[\w-]{16,})"),
)
_SETTING = re.compile(r"((?:draft|target)\.server\.(?:environment|arguments)[\w.]*)=.*", re.DOTALL)
_GROUP = re.compile(r"((?:draft|target)(?:\.server)?)=.*\b(?:environment|arguments)\b.*", re.DOTALL)


def key_in(variable: str) -> str | None:
    """The key that an environment variable holds, without the blanks and the line feed that a file
    added; None without one.

    Raises:
        ConfigError: it holds what cannot be a key.
    """
    key = os.environ.get(variable, "").strip()
    if not key.isprintable():
        raise ConfigError(
            f"the environment variable {variable} holds a line feed or another control character "
            "within the key; does it hold more than the key?"
        )
    return key or None


def hide(text: str, known: Iterable[str] = ()) -> str:
    """A text without the secrets that are known, and without what looks like one.

    >>> hide("ServerArgs(api_key='s3cret', num_tokens=5, url='https://me:pw@host/x')")
    "ServerArgs(api_key='***', num_tokens=5, url='https://***@host/x')"
    >>> hide("no access to /data/abc", ["/data/abc"])
    'no access to ***'
    """
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) > 5:
            text = text.replace(secret, HIDDEN)
        elif len(secret) > 2 and not secret.isdecimal():  # a number would be found everywhere
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = hide_address(text)
    for pattern in _WORDS:
        text = pattern.sub(lambda found: found["name"] + HIDDEN, text)
    return text


def hide_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line's arguments, without the values of those that are named like a key.

    >>> hide_arguments(["--api-key", "s3cret", "--hf-token=abc", "--max-tokens", "5"])
    ['--api-key', '***', '--hf-token=***', '--max-tokens', '5']
    """
    shown, is_secret = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if equals and _OPTION.fullmatch(name):
            shown.append(f"{name}={HIDDEN}")
        elif argument.startswith("-"):
            is_secret = _OPTION.fullmatch(argument) is not None
            shown.append(hide(argument))
        else:
            shown.append(HIDDEN if is_secret else hide(argument))
    return shown


def secret_arguments(arguments: Sequence[str]) -> list[str]:
    """The values that ``hide_arguments`` hides."""
    changed = [
        each
        for each, shown in zip(arguments, hide_arguments(arguments), strict=True)
        if each != shown
    ]
    return [value for each in changed for value in (each, each.partition("=")[2]) if value]


def hide_setting(setting: str) -> str:
    """``key=value`` of ``--set`` as it may be repeated; it is refused until the value is put in.

    >>> hide_setting("draft.server.environment.HF_TOKEN=abc"), hide_setting("seed=1")
    ('draft.server.environment.HF_TOKEN="***"', 'seed=1')
    """
    found = _SETTING.fullmatch(setting) or _GROUP.fullmatch(setting)
    return f'{found[1]}="{HIDDEN}"' if found else hide_address(setting)


def hide_address(text: str) -> str:
    """A text with the user names and passwords of its addresses left out.

    >>> hide_address("https://me:pw@host/v1")
    'https://***@host/v1'
    """
    return _IN_ADDRESS.sub(f"{HIDDEN}@", text)


def refuse_hidden(value: object) -> object:
    """Refuse what stands in a secret's place, where the secret itself is needed.

    Raises:
        ValueError: it is that.
    """
    if value == HIDDEN:
        raise ValueError(f"{HIDDEN} stands for what is not written down; put it in again")
    return value
