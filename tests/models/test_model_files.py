"""What is read of a model's folder, with transformers as the judge of what is right."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fakes import byte_tokens
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atts.config import ModelOptions, PromptOptions
from atts.errors import ConfigError
from atts.models.model_files import (
    ChatTemplate,
    context_length,
    end_of_sequence_ids,
    model_folder,
    model_path,
    read_tokenizer,
    vocabulary_size,
)
from atts.models.prompts import Tokenizer
from atts.types import Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
TEMPLATES = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
AUTHORS = ("draft", "target")
OURS = {author: Tokenizer.load(ModelOptions(model=f"bundled/{author}")) for author in AUTHORS}
THEIRS: dict[str, Any] = {
    author: AutoTokenizer.from_pretrained(model_path(f"bundled/{author}")) for author in AUTHORS
}


def added(text: str, **flags: bool) -> dict[str, object]:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
    return {"content": text, **plain, **flags}


def save(folder: Path, special: list[str], **config: object) -> None:
    tokens = byte_tokens()
    tokens.add_special_tokens(special)
    tokens.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@given(st.sampled_from(AUTHORS), st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_and_texts_are_those_of_transformers(author: str, text: str) -> None:
    ours, theirs = OURS[author], THEIRS[author]
    for marked in (text, f"<s>{text}</s>"):
        ids = theirs.encode(marked, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(marked) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("author", AUTHORS)
def test_prompts_are_those_of_transformers(author: str) -> None:
    options = PromptOptions(system="Be brief.")
    text = THEIRS[author].apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    ids = THEIRS[author].encode(text, add_special_tokens=False)
    assert OURS[author].prompt(PROBLEM, options) == ids
    OURS[author].encode("in between")
    assert OURS[author].prompt(PROBLEM, options) == ids


@pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_templates_render_as_in_transformers(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=byte_tokens(), bos_token="<BOS>")  # noqa: S106
    ours = ChatTemplate(source, {"bos_token": "<BOS>"})
    for thinking in (True, False):
        text = wrapped.apply_chat_template(
            MESSAGES,
            chat_template=source,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        assert ours.render(MESSAGES, enable_thinking=thinking) == text


def test_what_templates_may_use() -> None:
    source = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ strftime_now('%%') }}"
    )
    assert ChatTemplate(source, {}).render(MESSAGES) == '{"role": "user", "content": "1+1?"}%'


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__ }}{{ ().__class__.__base__.__subclasses__() }}",
        "{% do messages.append(1) %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source, {}).render(MESSAGES)


def test_a_template_of_its_own_file_goes_first_and_one_of_several_is_the_default(
    tmp_path: Path,
) -> None:
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    save(tmp_path, [], chat_template=several)
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == "d"
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}")
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == "<|end|>"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.json": '{"chat_template": "p"}'}, "p"),
        ({"chat_template.json": '{"chat_template": "p"}', "chat_template.jinja": "j"}, "j"),
        ({"chat_template.json": '{"chat_template": {"default": "d", "rag": "r"}}'}, "d"),
        ({"additional_chat_templates/only.jinja": "o"}, "o"),
        ({"additional_chat_templates/tool_use.jinja": "t", "chat_template.jinja": "j"}, "j"),
        ({"additional_chat_templates/default.jinja": "d"}, "d"),
    ],
)
def test_every_file_that_may_hold_a_template_is_read(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    save(tmp_path, [])
    (tmp_path / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == expected


def test_one_of_a_list_is_taken_and_of_several_without_a_default_none(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]
    save(tmp_path, [], chat_template=several[:1])
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == "t"
    save(tmp_path, [], chat_template=several)
    with pytest.raises(ConfigError, match=r"templates rag, tool_use, and none of them is the def"):
        ChatTemplate.read(tmp_path)
    with pytest.raises(ConfigError, match=r"rag, tool_use.*copy the one to use"):
        Tokenizer.load(ModelOptions(model=str(tmp_path)))
    (tmp_path / "chat_template.jinja").write_text("d")
    template = ChatTemplate.read(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == "d"


@pytest.mark.parametrize("template", [3, [3], [{"name": "x"}], {"default": 3}, [[]]])
def test_a_template_that_is_none_is_refused(tmp_path: Path, template: object) -> None:
    save(tmp_path, [], chat_template=template)
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        Tokenizer.load(ModelOptions(model=str(tmp_path)))


def test_there_may_be_no_template(tmp_path: Path) -> None:
    save(tmp_path, [])
    assert ChatTemplate.read(tmp_path) is None


def test_tokens_that_only_the_other_files_name_are_added_as_transformers_does(
    tmp_path: Path,
) -> None:
    tokens = {"257": added("<think>"), "256": added("<|end|>", special=True)}
    pad = {"__type": "AddedToken", **added("<|pad|>", special=True)}
    save(tmp_path, ["<|end|>"], added_tokens_decoder=tokens, pad_token=pad)
    ours, theirs = read_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.encode("a<think>b<|pad|>c<|end|>").ids
    assert ids == theirs.encode("a<think>b<|pad|>c<|end|>")
    assert ids[1] == 257
    kept = ours.decode(ids, skip_special_tokens=True)
    assert kept == theirs.decode(ids, skip_special_tokens=True) == "a<think>bc"


def test_a_model_without_tokenizer_json_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json.*save_pretrained"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "size"), [('{"vocab_size": 7}', 7), ('{"text_config": {"vocab_size": 9}}', 9)]
)
def test_the_vocabulary_of_a_model(tmp_path: Path, content: str, size: int) -> None:
    (tmp_path / "config.json").write_text(content)
    assert vocabulary_size(str(tmp_path)) == size


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"text_config": {}}'])
def test_a_configuration_without_one_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"configuration of|vocab_size"):
        vocabulary_size(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "generation", "ids"),
    [
        ('{"eos_token_id": 3}', None, {3}),
        ('{"eos_token_id": 3}', '{"eos_token_id": [5, 3]}', {3, 5}),
        ('{"text_config": {"eos_token_id": [4]}}', '{"eos_token_id": null}', {4}),
        ("{}", None, set()),
    ],
)
def test_what_ends_a_text(
    tmp_path: Path, config: str, generation: str | None, ids: set[int]
) -> None:
    (tmp_path / "config.json").write_text(config)
    if generation:
        (tmp_path / "generation_config.json").write_text(generation)
    assert end_of_sequence_ids(str(tmp_path)) == ids


def test_a_tokenizer_may_say_what_ends_a_text(tmp_path: Path) -> None:
    shutil.copy(Path(model_path("bundled/draft"), "tokenizer.json"), tmp_path)
    assert end_of_sequence_ids(str(tmp_path)) == frozenset()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    assert end_of_sequence_ids(str(tmp_path)) == {2}
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert end_of_sequence_ids(str(tmp_path)) == {7}
    assert context_length(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 99}))
    assert context_length(str(tmp_path)) == 99


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert model_folder(str(tmp_path)) == tmp_path
    assert model_folder("bundled/draft") == Path(model_path("bundled/draft"))


def test_reading_a_model_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from atts.config import ModelOptions\n"
        "from atts.engines.loading import remote_engines\n"
        "from atts.models.prompts import Tokenizer\n"
        "import atts.runs.jobs\n"
        "options = ModelOptions(model='bundled/draft', engine='sglang')\n"
        "remote_engines(options)\n"
        "Tokenizer.load(options)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("name", ["bundled/xyz", "bundled", "bundled/", "bundled/draft/x"])
def test_unknown_bundled_models_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="bundled/draft and bundled/target"):
        model_path(name)
    with pytest.raises(ConfigError, match="bundled/draft and bundled/target"):
        Tokenizer.load(ModelOptions(model=name))


def test_other_models_are_what_they_are_called() -> None:
    assert model_path("some/folder") == "some/folder"
    assert Path(model_path("bundled/draft")).parts[-2:] == ("assets", "draft")


@pytest.mark.parametrize(
    ("failure", "found", "mend"),
    [
        (errors.LocalEntryNotFoundError("no net"), "cannot be reached", "hf download org/name"),
        (
            errors.RepositoryNotFoundError("404", response=Mock(headers={})),
            "does not show this model",
            "hf auth login",
        ),
        (errors.HFValidationError("bad id"), "can have this name", "OWNER/NAME"),
    ],
)
def test_a_model_that_is_not_to_be_had_says_why_and_what_to_do(
    failure: Exception, found: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(ConfigError) as failed:
        model_folder("org/name")
    assert found in failed.value.found
    assert mend in failed.value.mend
    assert str(failed.value) == f"{failed.value.found}; {failed.value.mend}"
