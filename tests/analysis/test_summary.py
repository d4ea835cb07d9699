# mypy: disable-error-code="union-attr"
"""The figures of a run, against counts by hand."""

from collections.abc import Callable

import pytest
from recorded import summarised

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, summarise
from atts.config import Config, parse_config
from atts.errors import GradingError
from atts.store.grades import ChainGrade
from atts.store.run_directory import RecordedRun
from atts.types import Chain, Discarded, Problem

MakeChain = Callable[..., Chain]
PROBLEMS = [
    Problem(id="a", question="1 + 1?", answer="2"),
    Problem(id="b", question="3 + 4?", answer="7"),
]


def config(samples: int = 4, method: str = "atts") -> Config:
    return parse_config({"samples": samples, "method": method}, "the test")


def test_everything_is_counted(make_chain: MakeChain) -> None:
    chains = [
        make_chain("a", 0, "2", (True, False), done=5.0),
        make_chain("a", 1, "2.0", (False,), done=9.5),
        make_chain("a", 2, "3", (True,)),
        make_chain("a", 3, None, (True, True), end="turns"),
        make_chain("b", 0, "7", (False,)),
        make_chain("b", 1, "8", ()),
        make_chain("b", 2, "8", (False,)),
        # What a failed chain had reached by then does not count.
        make_chain("b", 3, "7", (False,), end="failed"),
    ]
    summary = summarised(config(), PROBLEMS, chains)

    assert (summary.problems, summary.samples) == (2, 4)
    assert (summary.chains, summary.expected_chains, summary.failed) == (8, 8, 1)
    assert summary.ends == {"answer": 6 / 8, "turns": 1 / 8, "failed": 1 / 8}
    assert summary.accuracy.estimate == 3 / 8
    assert summary.majority_vote.estimate == 1 / 2  # a is right, b votes for 8
    assert list(summary.pass_at_k) == [1, 2, 3, 4]
    assert summary.accuracy_by_problem == {"a": 2 / 4, "b": 1 / 4}
    assert (summary.invalid, summary.ungraded) == (2 / 8, 0.0)
    assert summary.pass_at_k[1].estimate == pytest.approx(3 / 8)
    assert summary.pass_at_k[4].estimate == 1.0
    assert summary.wall_seconds == 9.5

    assert summary.take_over
    assert summary.take_over.nominal == 0.4
    assert summary.take_over.decisions == 9
    assert summary.take_over.realised.estimate == pytest.approx(4 / 9)
    low, high = summary.take_over.realised.low, summary.take_over.realised.high
    assert (low, high) == pytest.approx((0.0, 1.0), abs=0.02)  # two problems prove next to nothing
    assert [(t.turn, t.decisions) for t in summary.take_over.by_turn] == [(0, 7), (1, 2)]
    assert [t.rate for t in summary.take_over.by_turn] == pytest.approx([3 / 7, 1 / 2])

    assert summary.tokens.draft_written == 9 * 10  # replaced segments were written too
    assert summary.tokens.target_written == 4 * 7
    assert summary.tokens.target_scored == 9 * 8
    assert summary.tokens.draft_cached == 9 * 3
    assert summary.tokens.target_cached == 4 * 3 + 9 * 5
    assert summary.tokens_per_chain == pytest.approx((90 + 28) / 8)


def test_what_was_written_ahead_in_vain_is_counted_apart(make_chain: MakeChain) -> None:
    def with_discarded(chain: Chain, *discarded: Discarded | None) -> Chain:
        turns = zip(chain.turns, discarded, strict=True)
        return chain.model_copy(
            update={"turns": tuple(turn.model_copy(update={"discarded": d}) for turn, d in turns)}
        )

    chains = [
        with_discarded(
            make_chain("a", 0, "2", (True, False, True)),
            Discarded(tokens=500, seconds=9.0),
            None,
            # The draft's segments of 10 tokens took 0.2 s each.
            Discarded(tokens=None, seconds=0.5),
        ),
        # Aborted late, or waited for long: no segment is longer than 500 tokens.
        with_discarded(make_chain("b", 0, "7", (True,)), Discarded(tokens=None, seconds=1e4)),
    ]
    long = parse_config({"samples": 1, "turns": {"draft_tokens": 500}}, "the test")
    tokens = summarised(long, PROBLEMS, chains).tokens
    assert (tokens.draft_discarded, tokens.draft_written) == (500 + 25 + 500, 4 * 10)


def test_the_order_of_the_chains_leaves_no_trace(make_chain: MakeChain) -> None:
    chains = [make_chain(p, s, "2", (s % 2 == 0,)) for p in "ab" for s in range(4)]
    assert summarised(config(), PROBLEMS, chains) == summarised(config(), PROBLEMS, chains[::-1])


def test_without_decisions_there_is_no_take_over_rate(make_chain: MakeChain) -> None:
    chains = [make_chain("a", 0, "2"), make_chain("b", 0, None, end="stop")]
    summary = summarised(config(1, "target-only"), PROBLEMS, chains)
    assert summary.take_over is None
    assert summary.tokens_per_chain == 0


def test_turns_without_a_score_count_only_where_no_score_decides(make_chain: MakeChain) -> None:
    made = make_chain("a", 0, "2", (True, False, True))
    undecided = [turn.model_copy(update={"decision": None}) for turn in made.turns[1:]]
    chain = made.model_copy(update={"turns": (made.turns[0], *undecided)})
    by_score = summarised(config(), PROBLEMS, [chain]).take_over
    assert by_score
    assert (by_score.decisions, by_score.realised.estimate, by_score.nominal) == (1, 1.0, 0.4)
    otherwise = summarised(config(method="specreason"), PROBLEMS, [chain]).take_over
    assert otherwise
    assert (otherwise.decisions, otherwise.nominal) == (3, None)
    assert otherwise.realised.estimate == pytest.approx(2 / 3)
    assert summarised(config(method="draft-only"), PROBLEMS, [chain]).take_over is None


def test_an_unfinished_run_is_summarised_as_far_as_it_is(make_chain: MakeChain) -> None:
    chains = [make_chain("a", 0, "2"), make_chain("a", 1, "2"), make_chain("b", 0, "7")]
    summary = summarised(config(), PROBLEMS, chains)
    assert (summary.chains, summary.expected_chains) == (3, 8)
    assert summary.accuracy.estimate == 1.0
    assert list(summary.pass_at_k) == [1]


def test_pass_at_every_k(make_chain: MakeChain) -> None:
    chains = [make_chain(p, s, "2") for p in "ab" for s in range(6)]
    assert list(summarised(config(6), PROBLEMS, chains).pass_at_k) == [1, 2, 3, 4, 5, 6]


def test_a_verdict_from_elsewhere_stands_in_place_of_the_rules(make_chain: MakeChain) -> None:
    chains = [make_chain(p, s, "2") for p in "ab" for s in range(2)]
    judged = {chains[0].key: False, chains[1].key: None}
    grades = {
        key: ChainGrade(
            problem_id=key.problem_id,
            sample=key.sample,
            text_digest="",
            original_answer="2",
            answer="2",
            extracted_by="run",
            correct=correct,
            decided_by="llm",
        )
        for key, correct in judged.items()
    }
    run = RecordedRun(config(2), tuple(PROBLEMS), tuple(chains), grades=grades)
    summary = summarise(grade_run(run))
    before = summarised(config(2), PROBLEMS, chains)
    assert before.accuracy.estimate == 2 / 4
    assert summary.accuracy.estimate == 0.0
    assert summary.ungraded == 1 / 4


def test_a_run_without_chains_has_no_figures() -> None:
    with pytest.raises(GradingError, match="no finished chain yet"):
        summarised(config(), PROBLEMS, [])


def test_the_problems_digest_is_that_of_the_set(make_chain: MakeChain) -> None:
    chains = [make_chain("a", 0, "2")]
    one = summarised(config(), PROBLEMS, chains).problems_digest
    assert summarised(config(), PROBLEMS[::-1], chains).problems_digest == one
    assert summarised(config(), PROBLEMS[:1], chains).problems_digest != one


def test_a_summary_survives_json(make_chain: MakeChain) -> None:
    summary = summarised(config(), PROBLEMS, [make_chain("a", 0, "2", (True,))])
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_adaptive_control_shows_its_guarantee(make_chain: MakeChain) -> None:
    chains = [make_chain("a", sample, "2", (sample % 2 == 0, False)) for sample in range(4)]
    adaptive = parse_config({"take_over": {"control": "adaptive"}, "samples": 4}, "the test")
    summary = summarised(adaptive, PROBLEMS, chains)
    assert summary.take_over
    groups = {row.group: row for row in summary.take_over.tracked}
    assert list(groups) == ["all", "turn 0", "turn 1", "problem a"]
    assert groups["turn 1"].decisions == 4
    assert all(abs(row.deviation) <= row.bound for row in groups.values())
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
    split = parse_config({"take_over": {"control": "split"}, "samples": 4}, "the test")
    without = summarised(split, PROBLEMS, chains)
    assert without.take_over
    assert without.take_over.tracked == ()
