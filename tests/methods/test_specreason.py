"""SpecReason on scripted engines: what is sent, in which order, and what stays."""

import math

import pytest
from fakes import Call, FakeEngine, ScriptedEngine, byte_tokenizer

from atts.config import Config, parse_config
from atts.errors import ConfigError
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Chain, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
STOP = ("\n\n",)
ASK = "\nu:Rate!\na:Score "
"""What the templates make of the request."""


def config_of(**options: object) -> Config:
    options = {"request": "Rate!", "reply": "Score "} | options
    return parse_config(
        {"method": "specreason", "prompt": {"system": ""}, "specreason": options}, "a test"
    )


class Script:
    """A chain of scripted engines; the log has all that they were asked for, in order."""

    def __init__(self, config: Config, draft: list[str], target: list[str]) -> None:
        self.log: list[Call] = []
        self.draft = ScriptedEngine("draft", draft, self.log)
        self.target = ScriptedEngine("target", target, self.log)
        models: Models = {
            "draft": Model(self.draft, byte_tokenizer()),
            "target": Model(self.target, byte_tokenizer(template=TARGET_TEMPLATE)),
        }
        self.chain = OpenChain(PROBLEM, 0, models, config)

    async def solve(self) -> Chain:
        end = await METHODS["specreason"].solve(self.chain)
        return self.chain.record(end, 0.0, 1.0)


# Another prompt than the draft's, so that the log shows whose it is.
TARGET_TEMPLATE = (
    "{% for m in messages %}"
    "{{ m['role'][0] }}:{{ 'Q ' if m['content'] == '1+1?' }}{{ m['content'] }}\n"
    "{% endfor %}a:"
)


def segments(chain: Chain) -> list[tuple[str, str, bool]]:
    return [(s.author, s.text, s.kept) for turn in chain.turns for s in turn.segments]


async def test_a_step_that_is_rated_well_stays() -> None:
    script = Script(config_of(), ["1 + 1\n\nnever", "is \\boxed{2}\n\n"], ["7!", "9"])
    chain = await script.solve()
    assert script.log == [
        Call("draft", "u:1+1?\na:", 512, STOP),
        Call("target", f"u:Q 1+1?\na:1 + 1\n\n{ASK}", 1),
        Call("draft", "u:1+1?\na:1 + 1\n\n", 512, STOP),
        Call("target", f"u:Q 1+1?\na:1 + 1\n\nis \\boxed{{2}}\n\n{ASK}", 1),
    ]
    assert segments(chain) == [
        ("draft", "1 + 1\n\n", True),
        ("draft", "is \\boxed{2}\n\n", True),
    ]
    assert (chain.end, chain.answer) == ("answer", "2")
    assert [turn.rating.value for turn in chain.turns if turn.rating] == [7.0, 9.0]
    assert [turn.take_over for turn in chain.turns] == [False, False]
    assert {sampling.temperature for _, sampling in script.target.generated} == {0.0}


async def test_a_step_that_is_rated_badly_is_written_by_the_target() -> None:
    script = Script(config_of(), ["1 + 1 = 3\n\n", "\\boxed{2}"], ["6", "1 + 1 = 2\n\nnever", "7"])
    chain = await script.solve()
    assert script.log == [
        Call("draft", "u:1+1?\na:", 512, STOP),
        Call("target", f"u:Q 1+1?\na:1 + 1 = 3\n\n{ASK}", 1),
        Call("target", "u:Q 1+1?\na:", 512, STOP),
        Call("draft", "u:1+1?\na:1 + 1 = 2\n\n", 512, STOP),
        Call("target", f"u:Q 1+1?\na:1 + 1 = 2\n\n\\boxed{{2}}{ASK}", 1),
    ]
    assert segments(chain) == [
        ("draft", "1 + 1 = 3\n\n", False),
        ("target", "1 + 1 = 2\n\n", True),
        ("draft", "\\boxed{2}", True),
    ]
    assert [turn.take_over for turn in chain.turns] == [True, False]
    rating = chain.turns[0].rating
    assert rating
    assert rating.read_tokens == len("1 + 1 = 3\n\n" + ASK)
    assert rating.written_tokens == 1


async def test_a_rating_that_is_no_digit_rejects() -> None:
    script = Script(config_of(), ["well"], ["X", "\\boxed{2}"])
    chain = await script.solve()
    assert segments(chain) == [("draft", "well", False), ("target", "\\boxed{2}", True)]
    assert chain.turns[0].rating
    assert chain.turns[0].rating.value == 0.0


async def test_the_first_steps_may_be_the_targets() -> None:
    script = Script(config_of(first_target_steps=2), ["so \\boxed{2}"], ["one\n\n", "two\n\n", "8"])
    chain = await script.solve()
    assert [call.engine for call in script.log] == ["target", "target", "draft", "target"]
    assert [turn.rating is None for turn in chain.turns] == [True, True, False]
    assert [turn.take_over for turn in chain.turns] == [None, None, False]


async def test_the_budget_bounds_the_steps_that_stay_and_ends_the_chain() -> None:
    script = Script(
        config_of(token_budget=12, step_tokens=8),
        ["bad step of 8 tokens", "good", "on and on"],
        ["0", "mended\n\n", "9", "9"],
    )
    chain = await script.solve()
    written = [call for call in script.log if call.stop]
    # Of 12 tokens, 8 were written by the target; what was rejected does not count.
    assert [call.asked for call in written] == [8, 8, 4]
    assert chain.text == "mended\n\ngood"
    assert chain.end == "stop"  # "good" ends with an end-of-sequence

    script = Script(
        config_of(token_budget=12, step_tokens=8), ["a step\n\n", "on and on"], ["9", "9"]
    )
    chain = await script.solve()
    assert (chain.text, chain.end) == ("a step\n\non a", "turns")


async def test_a_step_that_repeats_the_one_before_ends_the_chain() -> None:
    script = Script(config_of(), ["one\n\n", "one\n\n", "two\n\n", "two\n\n"], ["9"] * 4)
    chain = await script.solve()
    # Of the first two nothing is said yet: a chain of two steps goes on.
    assert chain.text == "one\n\none\n\ntwo\n\ntwo\n\n"
    assert chain.end == "stop"


async def test_a_thought_that_ends_without_an_answer_goes_on() -> None:
    script = Script(config_of(), ["so</think>\n\n", "</think>It is \\boxed{2}"], ["9", "9"])
    chain = await script.solve()
    assert [s.text for t in chain.turns for s in t.segments] == [
        "so\n\n",
        "</think>It is \\boxed{2}",
    ]
    assert script.log[2].prompt == "u:1+1?\na:so\n\n"
    assert script.log[3].prompt.startswith("u:Q 1+1?\na:so\n\n</think>It")
    assert (chain.end, chain.answer) == ("answer", "2")
    # The tag was written, whatever became of it.
    assert chain.turns[0].segments[0].tokens == len("so</think>\n\n")


async def test_an_end_of_sequence_ends_the_chain() -> None:
    script = Script(config_of(), ["first\n\n", ""], ["9"])
    chain = await script.solve()
    assert (chain.end, chain.text) == ("stop", "first\n\n")
    script = Script(config_of(), ["I give up"], ["1", "so do I"])
    chain = await script.solve()
    assert (chain.end, chain.text) == ("stop", "so do I")


async def test_the_average_weighs_the_digits_by_their_probabilities() -> None:
    script = Script(config_of(rating="average"), ["fine \\boxed{2}"], [])
    # As likely as not to be a 6 or an 8, and nothing else.
    script.target.logprob = lambda digit: math.log(0.4) if digit in "68" else -100.0
    chain = await script.solve()
    assert script.log == [
        Call("draft", "u:1+1?\na:", 512, STOP),
        *(Call("target", f"u:Q 1+1?\na:fine \\boxed{{2}}{ASK}", str(digit)) for digit in range(10)),
    ]
    rating = chain.turns[0].rating
    assert rating
    assert rating.value == pytest.approx(7.0)
    assert rating.read_tokens == len("fine \\boxed{2}" + ASK) + 10
    assert rating.written_tokens == 0
    assert (chain.end, chain.turns[0].take_over) == ("answer", False)


async def test_a_template_that_takes_no_second_message_is_a_configuration_error() -> None:
    models: Models = {
        "draft": Model(FakeEngine(lambda _: "step\n\n"), byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer(template="{{ messages[0]['content'] }}")),
    }
    with pytest.raises(ConfigError, match="does not show what the model has answered"):
        await METHODS["specreason"].solve(OpenChain(PROBLEM, 0, models, config_of()))
