"""Prompts and tokenizers: what crosses between text and token ids, and what is refused."""

import json
from pathlib import Path

import pytest
from fakes import PLAIN_TEMPLATE, byte_tokenizer, byte_tokens
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import normalizers, processors

from atts.config import ModelOptions, PromptOptions, Thinking, parse_config
from atts.errors import ConfigError
from atts.grading.extract import extract_answer
from atts.models.model_files import ChatTemplate
from atts.models.prompts import Tokenizer, question
from atts.types import Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
BYTES = byte_tokenizer()

whole_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))


def with_special_tokens() -> FastTokenizer:
    tokens = byte_tokens()
    tokens.add_special_tokens(["<s>", "<|end|>"])
    return tokens


def special(template: str = PLAIN_TEMPLATE) -> Tokenizer:
    named = {"bos_token": "<s>", "eos_token": "<|end|>"}
    return Tokenizer(with_special_tokens(), ChatTemplate(template, named), "special")


def save(folder: Path, **config: object) -> None:
    """What a model's folder holds of its tokenizer."""
    byte_tokens().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": PLAIN_TEMPLATE} | config)
    )


@given(whole_text)
def test_text_survives_the_way_through_token_ids(text: str) -> None:
    assert BYTES.decode(BYTES.encode(text)) == text


@given(whole_text, st.data())
def test_a_cut_inside_a_character_leaves_it_out(text: str, data: st.DataObject) -> None:
    ids = BYTES.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    kept, decoded = BYTES.decode_whole_characters(ids[:cut])
    # With one id for each byte: the longest prefix that ends at the end of a character.
    assert decoded == text.encode()[:cut].decode(errors="ignore")
    assert kept == BYTES.encode(decoded) == ids[: len(kept)]


@pytest.mark.parametrize("cut", range(5))
def test_every_cut_of_a_character_of_four_bytes(cut: int) -> None:
    ids = BYTES.encode("a\U0001f600")
    kept, text = BYTES.decode_whole_characters(ids[: 1 + cut])
    assert (len(kept), text) == ((5, "a\U0001f600") if cut == 4 else (1, "a"))


def test_what_looks_like_a_special_token_in_a_chain_is_plain_text() -> None:
    tokenizer = special()
    text = "so <|end|> is <s>"
    ids = tokenizer.encode(text)
    assert ids == BYTES.encode(text)
    assert tokenizer.decode(ids) == text


def test_special_tokens_that_a_model_writes_are_no_text() -> None:
    tokenizer = special()
    end = with_special_tokens().token_to_id("<|end|>")
    assert end is not None
    assert tokenizer.decode([*tokenizer.encode("a"), end]) == "a"


def test_a_prompt_has_one_beginning_of_text_when_template_and_tokenizer_both_add_it() -> None:
    template = "{{ bos_token }}u:{{ messages[-1]['content'] }}<|end|>a:"
    plain = with_special_tokens()
    begin, end = plain.token_to_id("<s>"), plain.token_to_id("<|end|>")
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    assert plain.encode("x").ids[0] == begin  # this tokenizer does add it by itself
    tokenizer = Tokenizer(plain, ChatTemplate(template, {"bos_token": "<s>"}), "begins")
    tokenizer.encode("a chain's text")  # which must not change how prompts are read
    ids = tokenizer.prompt(PROBLEM, PromptOptions(system=""))
    assert ids == [begin, *BYTES.encode("u:1+1?"), end, *BYTES.encode("a:")]
    assert begin not in tokenizer.encode("in the middle")


@pytest.mark.parametrize(
    ("system", "expected"), [("Be brief.", "s:Be brief.\nu:1+1?\na:"), ("", "u:1+1?\na:")]
)
def test_an_empty_system_message_is_left_out(system: str, expected: str) -> None:
    ids = BYTES.prompt(PROBLEM, PromptOptions(system=system))
    assert BYTES.decode(ids) == expected


def test_a_template_that_refuses_the_system_message_says_what_to_do() -> None:
    template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    tokenizer = byte_tokenizer("strict", template)
    with pytest.raises(ConfigError, match=r"strict.*no system role.*prompt\.system"):
        tokenizer.prompt(PROBLEM, PromptOptions(system="Be brief."))
    assert tokenizer.decode(tokenizer.prompt(PROBLEM, PromptOptions(system=""))) == "1+1?"


USUAL = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endfor %}<assistant>"
)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (USUAL, "<system>Be brief.<user>1+1?<assistant>"),
        (PARTS, "<system>Be brief.<user>1+1?<assistant>"),
        (
            PARTS.replace("m.content", "m.content[:]").replace("m.role", "m['role']"),
            "<system>Be brief.<user>1+1?<assistant>",
        ),
        (
            "{% for m in messages %}{% if m.role == 'human' %}H:{{ m.content | trim }}"
            "{% elif m.role != 'user' %}{{ m.content }}\n{% endif %}{% endfor %}A:",
            "Be brief.\nH:1+1?A:",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}"
            "{{ raise_exception('who?') }}{% endif %}[{{ m.content[0].text }}]{% endfor %}",
            "[Be brief.][1+1?]",
        ),
        (
            "{% for m in messages %}{{ m | tojson }}{% endfor %}",
            '{"role": "system", "content": "Be brief."}{"role": "user", "content": "1+1?"}',
        ),
    ],
)
def test_a_template_gets_its_messages_as_it_wants_them(template: str, prompt: str) -> None:
    tokenizer = byte_tokenizer("some", template)
    assert tokenizer.decode(tokenizer.prompt(PROBLEM, PromptOptions(system="Be brief."))) == prompt
    asked = tokenizer.decode(tokenizer.next_message("Sure?", "Yes"))
    assert "Sure?" in asked
    assert "question" not in asked


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("<user><assistant>", "<user><assistant>"),
        ("{% for m in messages %}{{ m.text }}{% endfor %}A:", "A:"),
        ("{{ messages[0].content | lower }}", "what is 17"),
        ("{{ messages[0].content | e }}", "&lt;"),
        ("{{ messages[0].content[:9] }}", "What is 1"),
        ("{% for m in messages if m.role == 'person' %}{{ m.content }}{% endfor %}", "''"),
        ("\x1b[2J{{ 'x' * 9000 }}", r"\\x1b\[2Jxxx"),
    ],
)
def test_a_template_that_loses_the_question_is_refused_before_anything_is_asked(
    template: str, shown: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s)some: .*loses the question.*17.*{shown}") as caught:
        byte_tokenizer("some", template)
    assert "What is 17 + 25?" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


def test_a_template_that_loses_one_question_is_refused_where_that_is_asked() -> None:
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    tokenizer = byte_tokenizer("some", template)
    assert tokenizer.prompt(PROBLEM, PromptOptions(system=""))
    problem = Problem(id="p", question="What does </think> mean?", answer="2")
    with pytest.raises(ConfigError, match=r"Asked: 'What does </think> mean\?'.*prompt: 'mean\?'"):
        tokenizer.prompt(problem, PromptOptions(system=""))


def test_white_space_is_the_templates_own() -> None:
    template = "{{ messages[-1].content | trim | replace('\n', ' ') }}\nA:"
    tokenizer = byte_tokenizer("some", template)
    problem = Problem(id="p", question="1 +\n 1?\n", answer="2")
    assert tokenizer.decode(tokenizer.prompt(problem, PromptOptions(system=""))) == "1 +  1?\nA:"


def test_a_template_that_fails_inside_refuses_the_prompt() -> None:
    template = "{{ messages[0].content }}{{ 1 // (messages | length - 2) }}"
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        byte_tokenizer("some", template).prompt(PROBLEM, PromptOptions(system="Be brief."))


def test_a_template_that_leaves_out_the_system_message_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = byte_tokenizer("some", "{{ messages[-1].content }}")
    tokenizer.prompt(PROBLEM, PromptOptions(system=""))
    assert not caplog.records
    for system in ("Be brief.", "Be long."):
        tokenizer.prompt(PROBLEM, PromptOptions(system=system))
    (record,) = caplog.records
    assert "some: the chat template leaves out the system message" in record.getMessage()


def test_more_choices_than_letters_are_refused() -> None:
    choices = tuple(map(str, range(40)))
    problem = Problem(id="many", question="Which?", answer="A", choices=choices)
    with pytest.raises(ConfigError, match="'many' has 40 choices, but there are letters for 26"):
        question(problem)
    assert question(problem.model_copy(update={"choices": choices[:26]})).count("Z. 25") == 1


def test_choices_are_lettered_after_the_question() -> None:
    problem = Problem(id="p", question="Which?", answer="B", choices=("one", "two", "three"))
    assert question(problem, PromptOptions(multiple_choice="{question}\n\n{choices}")) == (
        "Which?\n\nA. one\nB. two\nC. three"
    )
    assert question(PROBLEM) == "1+1?"


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mute.*no chat template"):
        Tokenizer(byte_tokens(), None, "mute")


@pytest.mark.parametrize(
    "change", [normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace("\n\n", "\n")]
)
def test_a_tokenizer_that_changes_text_is_refused(change: normalizers.Normalizer) -> None:
    plain = byte_tokens()
    plain.normalizer = change
    with pytest.raises(ConfigError, match=r"lossy.*does not give back"):
        Tokenizer(plain, ChatTemplate(PLAIN_TEMPLATE, {}), "lossy")


def test_a_saved_tokenizer_is_loaded(tmp_path: Path) -> None:
    save(tmp_path)
    tokenizer = Tokenizer.load(ModelOptions(model=str(tmp_path)))
    prompt = PromptOptions(system="")
    assert tokenizer.prompt(PROBLEM, prompt) == BYTES.prompt(PROBLEM, prompt)


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]"])
def test_a_missing_or_damaged_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        save(tmp_path)
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        Tokenizer.load(ModelOptions(model=str(tmp_path)))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Tokenizer.load(ModelOptions(model=str(tmp_path / "nowhere")))


def test_templates_are_filled_in_one_pass() -> None:
    problem = Problem(id="p", question="{choices} {x} {}?", answer="A", choices=("{question}", "b"))
    options = PromptOptions(multiple_choice="Q: {question}|{choices}|\\boxed{}")
    assert question(problem, options) == "Q: {choices} {x} {}?|A. {question}\nB. b|\\boxed{}"
    assert question(PROBLEM, PromptOptions(open="Solve: {question}")) == "Solve: 1+1?"


@pytest.mark.parametrize(
    ("key", "template", "missing"),
    [
        ("open", "Solve.", "{question}"),
        ("multiple_choice", "{question}", "{choices}"),
        ("multiple_choice", "{choices}", "{question}"),
    ],
)
def test_a_template_without_its_placeholders_is_refused(
    key: str, template: str, missing: str
) -> None:
    with pytest.raises(ConfigError, match=f"prompt.*{key} must hold {missing}"):
        parse_config({"prompt": {key: template}}, "a test")


# --- chat templates of model families, reduced to their rules -------------------------------

TEMPLATES = Path(__file__).parent / "templates"
ASKED = PromptOptions(system="Be brief.", open="{question}")
SILENT = PromptOptions(system="", open="{question}")


def family(name: str, thinking: Thinking = "template") -> Tokenizer:
    """The template of a family on a tokenizer of bytes, where special tokens are texts."""
    tokens = byte_tokens()
    tokens.add_special_tokens(["<BOS>"])
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return Tokenizer(tokens, ChatTemplate(source, {"bos_token": "<BOS>"}), name, thinking)


def rendered(tokenizer: Tokenizer, options: PromptOptions) -> str:
    ids = tokenizer.prompt(PROBLEM, options)
    return str(tokenizer._tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(
    ("name", "asked", "silent"),
    [
        (
            "deepseek-r1-distill",
            "<BOS>Be brief.<\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c><think>\n",
            "<BOS><\uff5cUser\uff5c>1+1?<\uff5cAssistant\uff5c><think>\n",
        ),
        (
            "qwq",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n",
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n",
        ),
        (
            "qwen3",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n",
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen2.5-instruct",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama-3.1-instruct",
            "<BOS><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
            "2023\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "<BOS><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
            "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_the_prompt_of_a_family(name: str, asked: str, silent: str) -> None:
    assert rendered(family(name), ASKED) == asked
    assert rendered(family(name), SILENT) == silent


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("deepseek-r1-distill", "><think>\n", "<think>\n\n</think>\n\n"),
        ("qwq", "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"),
        ("qwen3", "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"),
        ("qwen2.5-instruct", "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n"),
        ("llama-3.1-instruct", "\n\n<think>\n", "\n\n<think>\n\n</think>\n\n"),
    ],
)
def test_thinking_can_be_forced_for_each_model(name: str, on: str, off: str) -> None:
    ends = {
        thinking: rendered(family(name, thinking), ASKED) for thinking in ("template", "on", "off")
    }
    assert ends["on"].endswith(on)
    assert ends["on"].count("<think>") == 1
    assert ends["off"].endswith(off)
    assert ends["off"].count("<think>") == ends["off"].count("</think>") == 1
    if ends["template"].rstrip().endswith("<think>"):
        assert ends["on"] == ends["template"]


def test_a_draft_and_a_target_of_different_families_share_a_chain() -> None:
    draft, target = family("deepseek-r1-distill"), family("qwen2.5-instruct", "on")
    text = "so it is 2.</think>\n\n\\boxed{2}"
    assert draft.decode(draft.encode(text)) == target.decode(target.encode(text)) == text
    assert extract_answer(text) == "2"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (
            "deepseek-r1-distill",
            "<\uff5cend\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>How good?"
            "<\uff5cAssistant\uff5c><think>\nI say ",
        ),
        (
            "qwq",
            "<|im_end|>\n<|im_start|>user\nHow good?<|im_end|>\n<|im_start|>assistant\n"
            "<think>\nI say ",
        ),
        (
            "qwen3",
            "<|im_end|>\n<|im_start|>user\nHow good?<|im_end|>\n<|im_start|>assistant\nI say ",
        ),
        (
            "qwen2.5-instruct",
            "<|im_end|>\n<|im_start|>user\nHow good?<|im_end|>\n<|im_start|>assistant\nI say ",
        ),
        (
            "llama-3.1-instruct",
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHow good?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nI say ",
        ),
    ],
)
def test_a_second_message_follows_a_chain_as_the_family_has_it(name: str, asked: str) -> None:
    tokenizer = family(name)
    ids = tokenizer.next_message("How good?", "I say ")
    assert tokenizer._tokenizer.decode(ids, skip_special_tokens=False) == asked


def test_marks_of_a_thought_stay_in_the_text_though_they_are_special() -> None:
    tokens = byte_tokens()
    special = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|mine|>", "<|end|>"]
    tokens.add_special_tokens(special)
    ids = [i for text in ("hm", *special, "ok") for i in _ids(tokens, text)]
    template = ChatTemplate(PLAIN_TEMPLATE, {})
    assert (
        Tokenizer(tokens, template, "t").decode(ids) == "hm[THINK][/THINK]<|channel|><|message|>ok"
    )
    named = Tokenizer(tokens, template, "t", thought_ends=["<|mine|>"])
    assert named.decode(ids) == "hm[THINK][/THINK]<|channel|><|message|><|mine|>ok"
    kept, text = named.decode_whole_characters([*ids, *_ids(tokens, "\u00e9")[:1]])
    assert (kept, text) == (ids, named.decode(ids))


def _ids(tokens: FastTokenizer, text: str) -> list[int]:
    found: list[int] = tokens.encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize(
    ("name", "thinking", "inside"),
    [
        ("deepseek-r1-distill", "template", True),
        ("deepseek-r1-distill", "off", False),
        ("qwen2.5-instruct", "template", False),
        ("qwen2.5-instruct", "on", True),
    ],
)
def test_whether_a_prompt_leaves_the_model_inside_a_thought(
    name: str, thinking: Thinking, inside: bool
) -> None:
    tokenizer = family(name, thinking)
    assert tokenizer.is_in_thought(tokenizer.prompt(PROBLEM, PromptOptions())) is inside
