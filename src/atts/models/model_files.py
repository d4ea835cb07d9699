"""A model's files without its weights: tokenizer, chat template, and the size of its vocabulary.

Read with the tokenizers library itself. transformers would import PyTorch wherever that is
installed, which takes seconds, and spends as much time on a segment as its tokenizer does.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer

from atts.errors import ConfigError
from atts.models.conversion import convert

_CONFIG = "config.json"
_GENERATION_CONFIG = "generation_config.json"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_SPECIAL_TOKENS = "special_tokens_map.json"  # of older models
_TEMPLATE = "chat_template.jinja"  # of newer ones
_TEMPLATES = "additional_chat_templates"  # a folder, where there are several
_PROCESSOR_TEMPLATE = "chat_template.json"  # of models that take more than text


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


def model_folder(model: str) -> Path:
    """A folder with a model's small files, from the Hugging Face hub or its cache if need be.

    Raises:
        ConfigError: there is no bundled model of that name; or it is neither a folder nor to be
            had from the hub.
        OSError: the hub or the disk failed otherwise.
    """
    path = Path(model_path(model)).expanduser()
    if path.is_dir():
        return path
    # Takes long, and most often is not needed.
    from huggingface_hub import errors, snapshot_download

    wanted = [
        *(_CONFIG, _GENERATION_CONFIG),
        *(_TOKENIZER, _TOKENIZER_CONFIG, _SPECIAL_TOKENS, "tiktoken.model", "tokenizer.model"),
        *(_TEMPLATE, f"{_TEMPLATES}/*.jinja", _PROCESSOR_TEMPLATE),
    ]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted))
    except errors.LocalEntryNotFoundError as error:
        raise ConfigError(
            f"{model}: there is no such folder, and the Hugging Face hub cannot be reached",
            mend=f"run `hf download {model}` where there is a network, or name the model's folder",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{model}: there is no such folder, and the Hugging Face hub does not show this model",
            mend="correct its name; or, if it is private or gated, log in by `hf auth login`",
        ) from error
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{model}: there is no such folder, and no model on the hub can have this name",
            mend="correct the path, or name a model as OWNER/NAME",
        ) from error


def vocabulary_size(model: str) -> int:
    """How many token ids a model knows, from its own ``config.json``.

    Raises:
        ConfigError: the file cannot be read, or does not say.
    """
    tree = _read_config(model, _CONFIG)
    text_config = tree.get("text_config")  # of a model that takes more than text
    size = (text_config if isinstance(text_config, dict) else tree).get("vocab_size")
    if not isinstance(size, int):
        raise ConfigError(f"{model}: its config.json does not name a vocab_size")
    return size


def end_of_sequence_ids(model: str) -> frozenset[int]:
    """The tokens that end a text of a model, from its configuration and that of generation; or the
    one that its tokenizer names, where neither has any.

    Raises:
        ConfigError: the model's configuration cannot be read.
    """
    tree = _read_config(model, _CONFIG)
    text_config = tree.get("text_config")
    trees = [tree, _read_config(model, _GENERATION_CONFIG)]  # not every model has the second
    trees += [text_config] if isinstance(text_config, dict) else []
    found = [each.get("eos_token_id") for each in trees]
    ids = [i for each in found for i in (each if isinstance(each, list) else [each])]
    if known := frozenset(i for i in ids if isinstance(i, int)):
        return known
    folder = model_folder(model)
    name = _named_tokens(folder).get("eos_token")
    if name is None or not (folder / _TOKENIZER).is_file():
        return frozenset()
    token_id = read_tokenizer(folder).token_to_id(name)
    return frozenset() if token_id is None else frozenset({token_id})


def context_length(model: str) -> int | None:
    """Longest text of a model in tokens; None if its configuration does not say.

    Raises:
        ConfigError: it cannot be read.
    """
    tree = _read_config(model, _CONFIG)
    text_config = tree.get("text_config")
    length = (text_config if isinstance(text_config, dict) else tree).get("max_position_embeddings")
    return length if isinstance(length, int) and length > 0 else None


def _read_config(model: str, name: str) -> dict[str, Any]:
    try:
        return _read_json(model_folder(model) / name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration of {model}: {error}") from error


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``tokenizer.json``, with the tokens that only the other files name; without
    that file, see ``convert``.

    Raises:
        ConfigError: there is no such file, and none can be made.
        Exception: it is damaged; the tokenizers library raises nothing more exact.
    """
    config = _read_json(folder / _TOKENIZER_CONFIG)
    if (folder / _TOKENIZER).is_file():
        tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        tokenizer = convert(folder, config)
    added = config.get("added_tokens_decoder") or {}
    in_order = sorted(added.items(), key=lambda item: int(item[0]))
    tokens = [AddedToken(**fields) for _, fields in in_order]
    tokens += [AddedToken(text, special=True) for text in _named_tokens(folder).values()]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in tokens if token.content not in known])
    return tokenizer


_ALWAYS = {"messages", "tools", "documents", "add_generation_prompt"}


class ChatTemplate:
    """Turns messages into a prompt, as the model was trained on them.

    It comes with the model and is not trusted: it runs in Jinja's sandbox.

    >>> template = ChatTemplate("{{ bos }}{% for m in messages %}<{{ m['content'] }}>{% endfor %}",
    ...                         {"bos": "^"})
    >>> template.render([{"role": "user", "content": "1 + 1?"}])
    '^<1 + 1?>'
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        """``special_tokens`` are what the template may call by name, such as ``bos_token``.

        Raises:
            jinja2.TemplateError: the source is no template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        self._template = environment.from_string(source)
        self._special_tokens = special_tokens
        self._source = source

    @cached_property
    def variables(self) -> frozenset[str]:
        """What the template may be told beside the messages, by name."""
        environment = self._template.environment
        asked_for = meta.find_undeclared_variables(environment.parse(self._source))
        return frozenset(
            asked_for - environment.globals.keys() - self._special_tokens.keys() - _ALWAYS
        )

    @classmethod
    def read(cls, folder: Path) -> "ChatTemplate | None":
        """The template in a model's folder; None if there is none.

        Raises:
            jinja2.TemplateError: it is no template.
            ConfigError: there are several, and none is the default.
            ValueError: a file is not what it should be.
        """
        found = _templates(folder)
        if len(found) > 1 and "default" not in found:
            raise ConfigError(
                f"{folder} has the chat templates {', '.join(sorted(found))[:200]}, and none of "
                f"them is the default; copy the one to use to {_TEMPLATE} in that folder"
            )
        source = found.get("default") or next(iter(found.values()), None)
        return cls(source, _named_tokens(folder)) if source else None

    def render(self, messages: Sequence[Mapping[str, object]], **variables: object) -> str:
        """The prompt, up to where the model's answer begins.

        Raises:
            jinja2.TemplateError: the template refuses the messages, or fails.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
                **variables,
            )
        except TemplateError:
            raise
        except Exception as error:  # whatever its expressions raise
            raise TemplateError(f"{type(error).__name__}: {error}") from error


class _Generation(Extension):
    """``{% generation %}`` marks what a model is trained on; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: object, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: ANN401
    # Jinja's own filter would escape for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - the day where the user is


def _templates(folder: Path) -> dict[str, str]:
    """The chat templates of a model by name; where there is one alone, it is the default."""
    found = _read_json(folder / _TOKENIZER_CONFIG).get("chat_template")
    if found is None:
        found = _read_json(folder / _PROCESSOR_TEMPLATE).get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}
    named = found if isinstance(found, dict) else {"default": found} if found else {}
    files = {path.stem: path for path in sorted((folder / _TEMPLATES).glob("*.jinja"))}
    if (folder / _TEMPLATE).is_file():
        files["default"] = folder / _TEMPLATE
    named |= {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    return named


def _named_tokens(folder: Path) -> dict[str, str]:
    """``bos_token``, ``eos_token`` and so on."""
    tree: dict[str, Any] = {}
    for name in (_SPECIAL_TOKENS, _TOKENIZER_CONFIG):
        tree |= _read_json(folder / name)
    texts = {
        key: value["content"] if isinstance(value, dict) and "content" in value else value
        for key, value in tree.items()
        if key.endswith("_token")
    }
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _read_json(path: Path) -> dict[str, Any]:
    """An object; empty where there is no such file."""
    if not path.is_file():
        return {}
    tree = json.loads(path.read_bytes())
    if not isinstance(tree, dict):
        raise ValueError(f"{path} does not hold an object")  # noqa: TRY004
    return tree
