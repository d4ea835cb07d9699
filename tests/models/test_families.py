"""Today's reasoning models: their prompts, what they are told, and chains that two share."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from fakes import FakeEngine, byte_tokens
from jinja2 import TemplateError

from atts.config import ModelOptions, PromptOptions, Thinking, parse_config
from atts.errors import ConfigError
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.models.chat_formats import DeepSeekV32, Harmony
from atts.models.conversion import KIMI
from atts.models.model_files import ChatTemplate
from atts.models.prompts import Tokenizer
from atts.models.thought import divide
from atts.types import Problem

TEMPLATES = Path(__file__).parent / "templates"
PROBLEM = Problem(id="p", question="1+1?", answer="2")
ASKED = PromptOptions(system="Be brief.", open="{question}")
SILENT = PromptOptions(system="", open="{question}")
DEEPSEEK_BEGIN, DEEPSEEK_END = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
HARMONY_SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: {}\n\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>"
)


def family(
    name: str, mode: Thinking = "template", variables: Mapping[str, object] = MappingProxyType({})
) -> Tokenizer:
    """A family on a tokenizer of bytes, where special tokens are texts."""
    template: Any = DeepSeekV32()
    if name != "deepseek-v3.2":
        source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        template = ChatTemplate(source, {"bos_token": DEEPSEEK_BEGIN})
    return Tokenizer(byte_tokens(), template, name, mode, variables=variables)


def rendered(tokenizer: Tokenizer, options: PromptOptions = ASKED) -> str:
    return tokenizer.decode(tokenizer.prompt(PROBLEM, options))


@pytest.mark.parametrize(
    ("name", "asked", "silent"),
    [
        (
            "glm-4.5",
            "[gMASK]<sop><|system|>\nBe brief.<|user|>\n1+1?<|assistant|>",
            "[gMASK]<sop><|user|>\n1+1?<|assistant|>",
        ),
        (
            "kimi-k2-thinking",
            "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>1+1?"
            "<|im_end|><|im_assistant|>assistant<|im_middle|>",
            "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI."
            "<|im_end|><|im_user|>user<|im_middle|>1+1?<|im_end|>"
            "<|im_assistant|>assistant<|im_middle|>",
        ),
        (
            "deepseek-v3.1",
            f"{DEEPSEEK_BEGIN}Be brief.<\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c></think>",
            f"{DEEPSEEK_BEGIN}<\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c></think>",
        ),
        (
            "deepseek-v3.2",
            f"{DEEPSEEK_BEGIN}Be brief.<\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c><think>",
            f"{DEEPSEEK_BEGIN}<\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c><think>",
        ),
        (
            "gpt-oss",
            HARMONY_SYSTEM.format("medium") + "<|start|>developer<|message|># Instructions\n\n"
            "Be brief.<|end|><|start|>user<|message|>1+1?<|end|><|start|>assistant",
            HARMONY_SYSTEM.format("medium")
            + "<|start|>user<|message|>1+1?<|end|><|start|>assistant",
        ),
    ],
)
def test_the_prompt_of_a_family(name: str, asked: str, silent: str) -> None:
    assert rendered(family(name)) == asked
    assert rendered(family(name), SILENT) == silent


@pytest.mark.parametrize(
    ("name", "variables", "end"),
    [
        ("qwen3", {"enable_thinking": False}, "assistant\n<think>\n\n</think>\n\n"),
        ("glm-4.5", {"enable_thinking": False}, "1+1?/nothink<|assistant|>\n<think></think>"),
        ("deepseek-v3.1", {"thinking": True}, "<\uff5cAssistant\uff5c><think>"),
        ("deepseek-v3.2", {"thinking": False}, "<\uff5cAssistant\uff5c></think>"),
    ],
)
def test_what_a_template_is_told(name: str, variables: dict[str, object], end: str) -> None:
    assert rendered(family(name, variables=variables)).endswith(end)
    assert not rendered(family(name)).endswith(end)


def test_an_effort_is_told() -> None:
    assert HARMONY_SYSTEM.format("high") in rendered(
        family("gpt-oss", variables={"reasoning_effort": "high"})
    )


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("glm-4.5", "<|assistant|><think>\n", "/nothink<|assistant|>\n<think></think>"),
        ("kimi-k2-thinking", "<|im_middle|><think>\n", "<think>\n\n</think>\n\n"),
        ("deepseek-v3.1", "<\uff5cAssistant\uff5c><think>", "<\uff5cAssistant\uff5c></think>"),
        ("deepseek-v3.2", "<\uff5cAssistant\uff5c><think>", "<\uff5cAssistant\uff5c></think>"),
        (
            "gpt-oss",
            "<|start|>assistant<|channel|>analysis<|message|>",
            "<|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
def test_thinking_is_forced_in_the_familys_own_way(name: str, on: str, off: str) -> None:
    for thinking, end in (("on", on), ("off", off)):
        tokenizer = family(name, "on" if thinking == "on" else "off")
        assert rendered(tokenizer).endswith(end)
        assert tokenizer.is_in_thought(tokenizer.prompt(PROBLEM, ASKED)) is (thinking == "on")


@pytest.mark.parametrize(
    ("name", "mode", "written"),
    [
        ("qwen3", "template", "<think>\n4?\n</think>\n\nIt is 5."),
        ("qwen3", "on", "4?\n</think>\n\nIt is 5."),
        ("glm-4.5", "template", "\n<think>4?</think>\nIt is 5."),
        ("kimi-k2-thinking", "template", "<think>4?</think>It is 5."),
        ("deepseek-v3.1", "on", "4?</think>It is 5."),
        ("deepseek-v3.2", "template", "4?</think>It is 5."),
        # As its tokens are read: those that begin and end a message are dropped.
        (
            "gpt-oss",
            "template",
            "<|channel|>analysis<|message|>4?assistant<|channel|>final<|message|>It is 5.",
        ),
        ("gpt-oss", "on", "4?assistant<|channel|>final<|message|>It is 5."),
    ],
)
def test_thought_and_answer_are_told_apart(name: str, mode: Thinking, written: str) -> None:
    tokenizer = family(name, mode)
    inside = tokenizer.is_in_thought(tokenizer.prompt(PROBLEM, ASKED))
    thought, answer, is_over = divide(written, in_thought=inside)
    assert "4?" in thought
    assert answer.strip() == "It is 5."
    assert is_over
    unfinished = written.partition("4?")[0] + "4?"
    assert divide(unfinished, in_thought=inside).answer == ""


@pytest.mark.parametrize(
    "name", ["qwen3", "glm-4.5", "kimi-k2-thinking", "deepseek-v3.1", "gpt-oss"]
)
def test_without_a_thought_all_is_the_answer(name: str) -> None:
    tokenizer = family(name, "off")
    inside = tokenizer.is_in_thought(tokenizer.prompt(PROBLEM, ASKED))
    assert divide("It is 5.", in_thought=inside).answer == "It is 5."


@pytest.mark.parametrize(
    ("name", "variables", "told"),
    [
        ("qwen3", {"enable_thinkin": False}, "does not know enable_thinkin, .*knows enable_think"),
        ("kimi-k2-thinking", {"thinking": True}, "does not know thinking, .*it knows nothing"),
        ("glm-4.5", {"messages": "none"}, "does not know messages"),
        ("qwen3", {"raise_exception": 3, "bos_token": ""}, "not know bos_token, raise_exception"),
        ("deepseek-v3.2", {"enable_thinking": True}, "it knows thinking"),
    ],
)
def test_what_a_template_does_not_know_is_refused(
    name: str, variables: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        family(name, variables=variables)


def test_a_thing_is_not_told_twice() -> None:
    with pytest.raises(ConfigError, match=r"chat_template_kwargs\.enable_thinking are the same"):
        family("qwen3", "off", {"enable_thinking": True})


def test_what_a_template_is_told_is_part_of_the_results(tmp_path: Path) -> None:
    plain = parse_config({}, "a test")
    told = parse_config({"draft": {"chat_template_kwargs": {"enable_thinking": False}}}, "a test")
    assert not any("chat_" in key for key in plain.what_results_depend_on())
    assert not any("chat_" in key for key in plain.calibration_fingerprint())
    key = "draft.chat_template_kwargs.enable_thinking"
    assert told.what_results_depend_on()[key] is told.calibration_fingerprint()[key] is False
    byte_tokens().save(str(tmp_path / "tokenizer.json"))
    source = (TEMPLATES / "qwen3.jinja").read_text(encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    options = told.draft.model_copy(update={"model": str(tmp_path)})
    assert rendered(Tokenizer.load(options)).endswith("</think>\n\n")
    with pytest.raises(ConfigError, match="Input should be"):
        parse_config({"draft": {"chat_template_kwargs": {"a": [1]}}}, "a test")


def test_deepseek_v32_as_its_authors_show_it() -> None:
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello! I am DeepSeek."},
        {"role": "user", "content": "1+1=?"},
    ]
    user, assistant = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
    assert DeepSeekV32().render(messages) == (
        f"{DEEPSEEK_BEGIN}{user}hello{assistant}</think>Hello! I am DeepSeek.{DEEPSEEK_END}"
        f"{user}1+1=?{assistant}<think>"
    )
    for wrong in ([*messages, messages[2]], [{"role": "tool", "content": ""}, messages[1]]):
        with pytest.raises(TemplateError, match="no place"):
            DeepSeekV32().render(wrong)


def test_a_model_without_a_template_is_told_of_the_formats(tmp_path: Path) -> None:
    byte_tokens().save(str(tmp_path / "tokenizer.json"))
    options = ModelOptions(model=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no chat template.*DeepSeek-V3\.2 and gpt-oss"):
        Tokenizer.load(options)
    options = options.model_copy(update={"chat_format": "deepseek-v3.2"})
    assert rendered(Tokenizer.load(options)).endswith("<think>")


SHARED = [
    (draft, target)
    for draft in ("qwen3", "gpt-oss", "kimi-k2-thinking")
    for target in ("glm-4.5", "gpt-oss", "kimi-k2-thinking")
    if draft != target
]


@pytest.mark.parametrize(("draft", "target"), SHARED)
async def test_a_chain_passes_between_two_families(draft: str, target: str) -> None:
    """Each sees its own prompt, and behind it every word of the other's."""
    config = parse_config(
        {
            "method": "speculative-thinking",
            "prompt": {"system": "Be brief.", "open": "{question}"},
            "speculative_thinking": {"target_tokens": 99, "draft_tokens": 99},
        },
        "a test",
    )
    engines = {
        "draft": FakeEngine(lambda text: "hm, \u00bd.\n\n" if "hm" not in text else "Wait."),
        "target": FakeEngine(lambda _: "Yes</think>\\boxed{2}"),
    }
    names = {"draft": draft, "target": target}
    models: Models = {
        "draft": Model(engines["draft"], family(draft)),
        "target": Model(engines["target"], family(target)),
    }
    chain = OpenChain(PROBLEM, 0, models, config)
    end = await METHODS["speculative-thinking"].solve(chain)
    record = chain.record(end, 0.0, 1.0)
    assert (record.end, record.answer) == ("answer", "2")
    for author, engine in engines.items():
        own = rendered(family(names[author]))
        assert all(prompt.startswith(own) for prompt, _ in engine.generated)
    assert engines["target"].generated[0][0] == rendered(family(target)) + "hm, \u00bd.\n\n"
    assert divide(record.text).answer == "\\boxed{2}"


# --- gpt-oss by its own package ----------------------------------------------------------------

VOCABULARY = Path(os.environ.get("TIKTOKEN_ENCODINGS_BASE", "")) / "o200k_base.tiktoken"


@pytest.fixture(scope="module")
def harmony() -> Harmony:
    pytest.importorskip("openai_harmony", reason="pip install 'atts-lm[harmony]'")
    if not VOCABULARY.is_file():
        pytest.skip("set TIKTOKEN_ENCODINGS_BASE to a folder with o200k_base.tiktoken")
    return Harmony()


@pytest.mark.parametrize("options", [ASKED, SILENT])
@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_harmony_writes_what_the_template_of_gpt_oss_writes(
    harmony: Harmony, options: PromptOptions, effort: str
) -> None:
    messages = [{"role": "user", "content": "1+1?"}]
    if options.system:
        messages.insert(0, {"role": "system", "content": options.system})
    text = harmony.render(messages, reasoning_effort=effort)
    assert text == rendered(family("gpt-oss", variables={"reasoning_effort": effort}), options)
    dated = harmony.render(messages, conversation_start_date="2025-06-28")
    assert "Current date: 2025-06-28\n" in dated
    with pytest.raises(TemplateError):
        harmony.render(messages, reasoning_effort="much")
    with pytest.raises(TemplateError):
        harmony.render([{"role": "nobody", "content": ""}])


def test_harmony_shows_an_answer_that_was_asked_about(harmony: Harmony) -> None:
    assert harmony.render(
        [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "An answer."},
            {"role": "user", "content": "Sure?"},
        ]
    ) == HARMONY_SYSTEM.format("medium") + (
        "<|start|>user<|message|>Q<|end|><|start|>assistant<|channel|>final<|message|>An answer."
        "<|end|><|start|>user<|message|>Sure?<|end|><|start|>assistant"
    )


def test_another_models_tokenizer_is_not_given_the_ids_of_gpt_oss(harmony: Harmony) -> None:
    with pytest.raises(ConfigError, match="not that of gpt-oss"):
        Tokenizer(byte_tokens(), harmony, "bytes").prompt(PROBLEM, ASKED)


def test_without_the_package_or_its_vocabulary_harmony_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    byte_tokens().save(str(tmp_path / "tokenizer.json"))
    options = ModelOptions(model=str(tmp_path), chat_format="harmony")
    monkeypatch.setitem(sys.modules, "openai_harmony", None)
    with pytest.raises(ConfigError, match=r"pip install 'atts-lm\[harmony\]'"):
        Tokenizer.load(options)

    def load(_: str) -> None:
        raise RuntimeError("no route to host")

    package = ModuleType("openai_harmony")
    vars(package)["load_harmony_encoding"] = load
    monkeypatch.setitem(sys.modules, "openai_harmony", package)
    with pytest.raises(ConfigError, match=r"no route to host.*TIKTOKEN_ENCODINGS_BASE"):
        Tokenizer.load(options)


def test_prompts_of_gpt_oss_are_the_ids_of_its_package(harmony: Harmony, tmp_path: Path) -> None:
    """With its own vocabulary, which here comes without ``tokenizer.json``."""
    special = {"<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005}
    special |= {"<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012}
    added = {
        str(token_id): {"content": text, "special": True} for text, token_id in special.items()
    }
    (tmp_path / "tiktoken.model").symlink_to(VOCABULARY)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": [KIMI, None]}, "added_tokens_decoder": added})
    )
    problem = PROBLEM.model_copy(update={"question": "What does <|end|> mean, 1+1?"})
    messages = [{"role": "user", "content": problem.question}]
    ids = harmony.token_ids(messages, reasoning_effort="low")
    options = ModelOptions(
        model=str(tmp_path),
        chat_format="harmony",
        chat_template_kwargs={"reasoning_effort": "low"},
    )
    tokenizer = Tokenizer.load(options)
    assert tokenizer.prompt(problem, SILENT) == ids
    assert ids.count(200007) == 2  # the user's is none
    begun = Tokenizer.load(options.model_copy(update={"thinking": "off"})).prompt(problem, SILENT)
    assert begun[: len(ids)] == ids
    assert begun[len(ids)] == 200005
    assert begun[-1] == 200008
    asked = tokenizer.next_message("Sure?", "Yes")
    assert asked[0] == 200007
    text = (
        "<|channel|>analysis<|message|>4?<|end|><|start|>assistant<|channel|>final<|message|>"
        "It is 5."
    )
    written = tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
    assert divide(tokenizer.decode(written)).answer == "It is 5."
