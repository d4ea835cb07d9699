"""What clients may ask for: accepted with an effect, or refused by its name."""

import typing

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import completion_create_params

from atts.errors import RequestError
from atts.gateway.requests import WITHOUT_EFFECT, ChatRequest, parse

MESSAGES = [{"role": "user", "content": "1 + 1?"}]
KNOWN_TO_OPENAI = sorted(
    typing.get_type_hints(completion_create_params.CompletionCreateParamsNonStreaming)
)


def with_headers(headers: dict[str, str], **fields: object) -> ChatRequest:
    body = {"model": "atts", "messages": MESSAGES} | fields
    return parse(ChatRequest, orjson.dumps(body), headers.items())


def parsed(**fields: object) -> ChatRequest:
    return with_headers({}, **fields)


def refused(**fields: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parsed(**fields)
    return caught.value


@pytest.mark.parametrize("name", KNOWN_TO_OPENAI)
def test_no_field_of_openai_is_ignored_in_silence(name: str) -> None:
    value = {"a": "value that nobody means"}
    if name in WITHOUT_EFFECT:
        assert parsed(**{name: value}) == parsed()
    else:
        assert (refused(**{name: value}).param or "").partition(".")[0] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("logprobs", True),
        ("frequency_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("reasoning_effort", "low"),
        ("no_such_thing", 1),
        ("stream_options", {"include_obfuscation": True}),
    ],
)
def test_what_is_not_served_is_named(name: str, value: object) -> None:
    error = refused(**{name: value})
    assert error.status == 400
    assert (error.param or "").startswith(name)
    assert name in str(error)


def test_values_that_ask_for_nothing_are_accepted() -> None:
    nothing: dict[str, object] = {
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
        "n": None,
        "stop": None,
        "user": "somebody",
    }
    assert parsed(**nothing) == parsed()


def test_true_is_no_number() -> None:
    assert refused(frequency_penalty=False).param == "frequency_penalty"
    assert refused(n=True).param == "n"


def test_content_in_parts_is_their_text() -> None:
    parts = [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]
    assert parsed(messages=[{"role": "user", "content": parts}]) == parsed()


def test_an_image_is_refused_where_it_stands() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    error = refused(messages=[*MESSAGES, {"role": "user", "content": [image]}])
    assert error.param == "messages.1.content"
    assert "image_url" in str(error)


def test_a_reply_may_be_sent_back_as_it_came() -> None:
    reply = {
        "role": "assistant",
        "content": "2",
        "reasoning_content": "one and one",
        "refusal": None,
        "tool_calls": None,
    }
    request = parsed(messages=[*MESSAGES, reply, *MESSAGES])
    assert [m.as_prompted() for m in request.messages][1] == {"role": "assistant", "content": "2"}


def test_a_developer_is_a_system() -> None:
    request = parsed(messages=[{"role": "developer", "content": "Be brief."}, *MESSAGES])
    assert request.messages[0].as_prompted() == {"role": "system", "content": "Be brief."}


def test_the_user_must_have_the_last_word() -> None:
    error = refused(messages=[*MESSAGES, {"role": "assistant", "content": "It is"}])
    assert error.param == "messages"


def test_both_names_of_the_limit_must_agree() -> None:
    assert parsed(max_tokens=5).most_tokens == 5
    assert parsed(max_completion_tokens=6, max_tokens=6).most_tokens == 6
    assert refused(max_tokens=5, max_completion_tokens=6).param == "max_completion_tokens"


def test_one_number_of_chains() -> None:
    assert parsed().chains(default=16) == 1
    assert parsed(n=4).chains(default=16) == 4
    assert parsed(atts={"samples": 4}).chains(default=16) == 4
    assert parsed(atts={"vote": True}).chains(default=16) == 16
    assert parsed(n=1, atts={"vote": True, "samples": 8}).chains(default=16) == 8
    assert refused(n=2, atts={"vote": True}).param == "n"
    assert refused(n=2, atts={"samples": 3}).param == "n"


def test_headers_stand_for_the_extra_body() -> None:
    headers = {
        "X-Atts-Samples": "8",
        "X-Atts-Vote": "true",
        "X-Atts-Take-Over-Rate": "0.3",
        "X-Atts-Method": "target-only",
        "Accept": "*/*",
    }
    extra = {"samples": 8, "vote": True, "take_over_rate": 0.3, "method": "target-only"}
    assert with_headers(headers) == parsed(atts=extra)
    assert with_headers(headers, atts={"samples": 8}) == parsed(atts=extra)


@pytest.mark.parametrize(
    ("header", "value", "param"),
    [
        ("X-Atts-Samples", "8", "atts.samples"),  # the body says 4
        ("X-Atts-Samples", "many", "atts.samples"),
        ("X-Atts-Else", "1", "atts.else"),
    ],
)
def test_headers_must_be_right_and_not_contradict_the_body(
    header: str, value: str, param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        with_headers({header: value}, atts={"samples": 4})
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"model": "atts"', b"1"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError, match="body"):
        parse(ChatRequest, body)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*KNOWN_TO_OPENAI, "atts", "else"]), json, max_size=4))
def test_any_body_is_a_request_or_is_refused(tree: dict[str, object]) -> None:
    try:
        parse(ChatRequest, orjson.dumps({"model": "atts", "messages": MESSAGES} | tree))
    except RequestError as error:
        faults = [error]
    else:
        faults = []
    assert all(fault.status == 400 and len(fault.param or "") <= 256 for fault in faults)
