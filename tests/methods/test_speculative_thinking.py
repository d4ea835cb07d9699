"""Speculative Thinking on scripted engines: what is sent, in which order, and what stays."""

import asyncio
from collections.abc import Sequence

import pytest
from fakes import Call, ScriptedEngine, byte_tokenizer

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Chain, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
STOP = ("\n\n",)


def config_of(**options: object) -> Config:
    return parse_config(
        {
            "method": "speculative-thinking",
            "prompt": {"system": ""},
            "speculative_thinking": {"draft_tokens": 100, **options},
        },
        "a test",
    )


async def solve(
    config: Config, draft: Sequence[str], target: Sequence[str]
) -> tuple[Chain, list[Call]]:
    log: list[Call] = []
    models: Models = {
        "draft": Model(ScriptedEngine("draft", draft, log), byte_tokenizer()),
        "target": Model(ScriptedEngine("target", target, log), byte_tokenizer()),
    }
    chain = OpenChain(PROBLEM, 0, models, config)
    end = await METHODS["speculative-thinking"].solve(chain)
    return chain.record(end, 0.0, 1.0), log


def sent(log: Sequence[Call]) -> list[tuple[str, str, int | str, tuple[str, ...]]]:
    """The calls, with what follows the problem's prompt."""
    return [(call.engine, call.prompt.partition("a:")[2], call.asked, call.stop) for call in log]


def segments(chain: Chain) -> list[tuple[str, str, bool]]:
    return [(s.author, s.text, s.kept) for turn in chain.turns for s in turn.segments]


async def test_where_the_draft_is_neutral_it_goes_on_alone() -> None:
    chain, log = await solve(
        config_of(), ["one\n\nnever", "two, and so on for long", "\\boxed{2}"], []
    )
    assert sent(log) == [
        ("draft", "", 100, STOP),
        ("draft", "one\n\n", 20, ()),  # a look at what would follow
        ("draft", "one\n\n", 100, STOP),
    ]
    assert segments(chain) == [
        ("draft", "one\n\n", True),
        ("draft", "two, and so on for l", False),
        ("draft", "\\boxed{2}", True),
    ]
    assert [turn.take_over for turn in chain.turns] == [False, False]
    assert (chain.end, chain.answer) == ("answer", "2")


async def test_where_the_draft_reflects_the_target_writes_a_bounded_number_of_tokens() -> None:
    chain, log = await solve(
        config_of(),
        ["one\n\n", "Wait, is that so?", " and \\boxed{2}"],
        ["It is so, because it must be so"],
    )
    assert sent(log) == [
        ("draft", "", 100, STOP),
        ("draft", "one\n\n", 20, ()),
        ("target", "one\n\n", 20, ()),
        ("draft", "one\n\nIt is so, because it", 100, STOP),
    ]
    assert segments(chain) == [
        ("draft", "one\n\n", True),
        ("draft", "Wait, is that so?", False),
        ("target", "It is so, because it", True),
        ("draft", " and \\boxed{2}", True),
    ]
    assert [turn.take_over for turn in chain.turns] == [True, False]


@pytest.mark.parametrize(
    ("drafted", "guided", "kept"),
    [
        ("Wait, no", "So 2 it is", "target"),  # reflects, and the target does not
        ("Wait, no", "Hold on!", "draft"),
        ("Yes, so", "Wait, what", "target"),  # affirms, and the target reflects
        ("Yes, so", "Yes, yes", "draft"),
        ("Yes, so", "Two, then", "draft"),
    ],
)
async def test_unless_it_is_always_chosen_the_target_is_kept_where_it_disagrees(
    drafted: str, guided: str, kept: str
) -> None:
    config = config_of(choose_target=False)
    chain, _ = await solve(config, ["one\n\n", drafted, "\\boxed{2}"], [guided])
    by_author = {author: keep for author, _, keep in segments(chain)[1:3]}
    assert by_author == {"draft": kept == "draft", "target": kept == "target"}
    assert chain.turns[0].take_over == (kept == "target")


async def test_after_a_verification_the_target_writes_more() -> None:
    chain, log = await solve(
        config_of(verify_tokens=10),
        ["one\n\n", "Let me verify", "\\boxed{2}"],
        ["I check this, for long", " = 2, which is right"],
    )
    assert sent(log)[2:] == [
        ("target", "one\n\n", 20, ()),
        ("target", "one\n\nI check this, for lo", 10, ()),
        ("draft", "one\n\nI check this, for lo = 2, whic", 100, STOP),
    ]
    assert [turn.take_over for turn in chain.turns] == [True, False]


async def test_after_many_reflections_the_target_recaps_and_ever_more_rarely() -> None:
    config = config_of(
        recap_words="Recap:",
        recap_after=1,
        recap_after_step=1,
        recap_after_most=2,
        recap_tokens=5,
        recap_tokens_step=3,
        recap_tokens_most=7,
    )
    draft = [
        *("a\n\n", "Wait"),  # one reflection
        "b\n\n",  # a recap
        *("c\n\n", "Wait"),
        *("d\n\n", "Wait"),  # two reflections
        "e\n\n",  # a recap
        "\\boxed{2}",
    ]
    doubt = "Wait, this cannot be so"
    target = [doubt, " it is right", doubt, doubt, " still right"]
    chain, log = await solve(config, draft, target)
    targets = [(call.prompt[-8:], call.asked) for call in log if call.engine == "target"]
    assert targets == [
        ("1?\na:a\n\n", 20),
        ("\n\nRecap:", 5),
        (" it ic\n\n", 20),
        ("ot bed\n\n", 20),
        ("\n\nRecap:", 7),
    ]
    recaps = [s.text for t in chain.turns for s in t.segments if s.text.startswith("Recap:")]
    assert recaps == ["Recap: it i", "Recap: still "]
    # The words were put there by nobody's tokens.
    assert [s.tokens for t in chain.turns for s in t.segments if s.text.startswith("Recap:")] == [
        5,
        7,
    ]
    assert chain.end == "answer"


async def test_the_target_may_begin() -> None:
    config = config_of(begin=True, begin_tokens=6)
    chain, log = await solve(config, ["then \\boxed{2}"], ["First, this"])
    assert sent(log) == [("target", "", 6, ()), ("draft", "First,", 100, STOP)]
    assert [turn.take_over for turn in chain.turns] == [None, False]
    assert chain.text == "First,then \\boxed{2}"


async def test_think_words_stand_before_what_follows_a_trigger() -> None:
    config = config_of(think_words="Hm, wait: ", always_ask=True)
    chain, log = await solve(
        config, ["one\n\n", "two", "\\boxed{2}"], ["three, four, five, six, seven"]
    )
    assert sent(log)[1:] == [
        ("draft", "one\n\nHm, wait: ", 20, ()),
        ("target", "one\n\nHm, wait: ", 20, ()),
        ("draft", "one\n\nHm, wait: three, four, five, s", 100, STOP),
    ]
    assert chain.turns[0].segments[-1].text == "Hm, wait: three, four, five, s"

    # They are no sign of anything by themselves, and gone where the draft goes on alone.
    chain, log = await solve(
        config_of(think_words="Hm, wait: "), ["one\n\n", "two", "\\boxed{2}"], []
    )
    assert chain.text == "one\n\n\\boxed{2}"


async def test_a_chain_that_has_taken_too_long_is_given_up_as_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])

    class Slow(ScriptedEngine):
        async def generate(self, request: GenerateRequest) -> Completion:
            now[0] += 60.0
            return await super().generate(request)

    log: list[Call] = []
    models: Models = {
        "draft": Model(Slow("draft", ["a\n\n", "neutral", "b\n\n"] * 3, log), byte_tokenizer()),
        "target": Model(ScriptedEngine("target", [], log), byte_tokenizer()),
    }
    chain = OpenChain(PROBLEM, 0, models, config_of(time_out_seconds=100.0))
    end = await METHODS["speculative-thinking"].solve(chain)
    # Two requests take 120 s; the time is looked at between turns.
    assert (end, chain.record(end, 0.0, 1.0).text, len(log)) == ("time-out", "a\n\n", 2)


async def test_the_tokens_of_all_turns_are_the_most_that_a_chain_may_have() -> None:
    config = config_of()
    turns = config.turns.model_copy(update={"max_turns": 1, "draft_tokens": 6, "target_tokens": 6})
    config = config.model_copy(update={"turns": turns})
    chain, log = await solve(config, ["one\n\n", "Wait, what", "never"], ["It is so, because"])
    assert [call.asked for call in log] == [12, 7, 7]
    assert (chain.text, chain.end) == ("one\n\nIt is s", "turns")


@pytest.mark.parametrize(
    ("draft", "target", "text"),
    [
        (["I give up"], [], "I give up"),
        (
            [
                "one\n\n",
                "Yes.",
            ],
            ["Done."],
            "one\n\nDone.",
        ),
        (
            [
                "one\n\n",
                "Yes.",
            ],
            [""],
            "one\n\n",
        ),
    ],
)
async def test_an_end_of_sequence_ends_the_chain(
    draft: list[str], target: list[str], text: str
) -> None:
    chain, _ = await solve(config_of(), draft, target)
    assert (chain.end, chain.text) == ("stop", text)


async def test_requests_of_one_turn_do_not_share_a_seed() -> None:
    log: list[Call] = []
    draft = ScriptedEngine("draft", ["one\n\n", "Check:", "\\boxed{2}"], log)
    target = ScriptedEngine("target", ["I check, and go on writing", "more and more"], log)
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(target, byte_tokenizer()),
    }
    config = config_of(verify_tokens=4)
    await METHODS["speculative-thinking"].solve(OpenChain(PROBLEM, 0, models, config))
    seeds = [s.seed for engine in (draft, target) for _, s in engine.generated]
    assert len(set(seeds)) == len(seeds) == 5
