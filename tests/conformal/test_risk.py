"""Certificates: exact tests, false at most delta of the time, bound to what they are about."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.risk import (
    Certificate,
    binomial_p_value,
    calibration_digest,
    certificate_fingerprint,
    fixed_sequence,
    problems_needed,
)
from atts.errors import CalibrationError


@given(st.integers(0, 3000), st.floats(0, 1), st.floats(0.001, 0.999))
def test_the_p_value_is_that_of_scipy(problems: int, share: float, limit: float) -> None:
    losses = int(share * problems)
    expected = binom.cdf(losses, problems, limit)
    assert binomial_p_value(losses, problems, limit) == pytest.approx(expected, rel=1e-8, abs=1e-13)


@pytest.mark.parametrize(("losses", "limit"), [(-1, 0.1), (11, 0.1), (1, 0.0), (1, 1.0)])
def test_impossible_counts_are_a_mistake(losses: int, limit: float) -> None:
    with pytest.raises(ValueError, match="losses of 10 problems"):
        binomial_p_value(losses, 10, limit)


@pytest.mark.parametrize(("limit", "delta"), [(0.1, 0.1), (0.05, 0.1), (0.05, 0.05)])
def test_a_loss_right_at_the_limit_is_certified_at_most_delta_of_the_time(
    limit: float, delta: float
) -> None:
    """The worst case: every rate's true loss is just over the limit, and they are dependent."""
    rng = np.random.default_rng(7)
    tries, problems = 20_000, 150
    lost = rng.binomial(problems, limit, size=tries)
    more = lost[:, None] + rng.binomial(2, 0.5, size=(tries, 3))  # cheaper rates lose more still
    false = [
        fixed_sequence([int(first), *map(int, rest)], problems, limit, delta) > 0
        for first, rest in zip(lost, more, strict=True)
    ]
    assert np.mean(false) <= delta + 4 * (delta * (1 - delta) / tries) ** 0.5
    assert np.mean(false) > delta / 4, "the test has power right at the limit, as far as it may"


def test_a_good_rate_before_bad_ones_does_not_make_false_certificates_likelier() -> None:
    rng = np.random.default_rng(8)
    tries, problems, limit, delta = 20_000, 150, 0.1, 0.1
    good, bad = rng.binomial(problems, 0.01, size=tries), rng.binomial(problems, limit, size=tries)
    false = [
        fixed_sequence([int(a), int(b), int(b)], problems, limit, delta) > 1
        for a, b in zip(good, bad, strict=True)
    ]
    assert np.mean(false) <= delta + 4 * (delta * (1 - delta) / tries) ** 0.5


def test_the_sequence_ends_at_the_first_that_fails() -> None:
    assert fixed_sequence([50, 0, 0], problems=60, limit=0.1, delta=0.1) == 0
    assert fixed_sequence([0, 0, 0], problems=60, limit=0.1, delta=0.1) == 3
    assert fixed_sequence([], problems=60, limit=0.1, delta=0.1) == 0


@settings(deadline=None)
@given(st.floats(0.02, 0.5), st.floats(0.01, 0.3), st.floats(0, 0.6))
def test_as_many_problems_as_needed_and_no_fewer(limit: float, delta: float, part: float) -> None:
    loss = part * limit
    needed = problems_needed(limit, delta, loss)
    assert needed is not None, "at the hardest of these limits some 2,000 would do"

    def certifies(problems: int) -> bool:
        return bool(binom.cdf(np.ceil(loss * problems), problems, limit) <= delta)

    assert certifies(needed)
    assert not any(certifies(problems) for problems in range(1, needed))


def test_too_large_a_loss_needs_more_than_any_number() -> None:
    assert problems_needed(0.05, 0.1, loss=0.05) is None
    assert problems_needed(0.05, 0.1, loss=0.0499999) is None


CALIBRATION = Calibration(version=2, fingerprint={}, coverage="marginal", scores={"c": ((0.5,),)})


def certificate(config: Config, digest: str | None = None) -> Certificate:
    return Certificate(
        version=1,
        fingerprint=certificate_fingerprint(config),
        calibration=digest,
        rate=config.take_over.rate,
        limit=0.05,
        confidence=0.9,
        losses=1,
        problem_ids=("a", "b"),
    )


def test_a_certificate_holds_for_other_problems_and_seeds_only() -> None:
    made = certificate(Config(), calibration_digest(CALIBRATION))
    other = parse_config({"seed": 9, "problems": {"count": 3}, "limits": {"chains": 2}}, "the test")
    made.check(other, CALIBRATION, ["x", "y"])
    for tree, key in (
        ({"take_over": {"rate": 0.2}}, r"take_over\.rate is 0\.4 there, 0\.2 in the run"),
        ({"samples": 3}, "samples is 16 there, 3"),
        ({"target": {"model": "other"}}, r"target\.model"),
    ):
        with pytest.raises(CalibrationError, match=key):
            made.check(parse_config(tree, "the test"), CALIBRATION, ["x"])
    changed = CALIBRATION.model_copy(update={"scores": {"c": ((0.6,),)}})
    with pytest.raises(CalibrationError, match="another calibration"):
        made.check(Config(), changed, ["x"])
    with pytest.raises(CalibrationError, match=r"made on 1 of the problems.*\(b is one\)"):
        made.check(Config(), CALIBRATION, ["x", "b"])
    allowed = parse_config({"calibration": {"allow_overlap": True}}, "the test")
    made.check(allowed, CALIBRATION, ["x", "b"])


def test_auto_is_vouched_for_only_where_it_takes_whole_problems() -> None:
    made = certificate(Config(), calibration_digest(CALIBRATION))
    tree: dict[str, object] = {"method": "auto", "auto": {"advised": {8: 2.0}}}
    with pytest.raises(CalibrationError, match=r"'auto' in the run; set auto\.whole_problems=true"):
        made.check(parse_config(tree, "the test"), CALIBRATION, ["x"])
    tree["auto"] = {"advised": {8: 2.0}, "whole_problems": True}
    made.check(parse_config(tree, "the test"), CALIBRATION, ["x"])
    tree["samples"] = 3
    with pytest.raises(CalibrationError, match="samples is 16 there, 3"):
        made.check(parse_config(tree, "the test"), CALIBRATION, ["x"])


def lost(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether the target's chains vote right where ours do not; a tie counts against us."""

    def wins(answers: Sequence[str], tied: bool) -> bool:
        counts = Counter(answers)
        most = max((n for answer, n in counts.items() if answer != "r"), default=0)
        return counts["r"] > most or (tied and counts["r"] == most)

    return wins(theirs, tied=True) and not wins(ours, tied=False)


ANSWERS = st.lists(st.sampled_from("rabc"), min_size=5, max_size=5)


@given(st.lists(st.tuples(ANSWERS, ANSWERS, st.booleans()), min_size=1, max_size=8))
def test_whoever_chooses_by_problem_loses_no_more_than_atts_on_all(
    problems: list[tuple[list[str], list[str], bool]],
) -> None:
    mixed = [atts if by_atts else alone for atts, alone, by_atts in problems]
    of_mixture = sum(lost(ours, alone) for ours, (_, alone, _) in zip(mixed, problems, strict=True))
    tied = sum(lost(alone, alone) for _, alone, by_atts in problems if not by_atts)
    assert of_mixture - tied <= sum(lost(atts, alone) for atts, alone, _ in problems)


def test_chains_of_one_problem_that_go_two_ways_can_lose_what_neither_way_loses() -> None:
    atts, alone = [*"rrrbb"], [*"bbrrr"]
    assert not lost(atts, alone)
    assert lost([*alone[:2], *atts[2:]], alone)


def test_conditional_calibrations_are_each_runs_own() -> None:
    conditional = CALIBRATION.model_copy(update={"coverage": "conditional"})
    assert calibration_digest(conditional) is None
    certificate(Config()).check(Config(), conditional, ["x"])


def test_json_gives_back_an_equal_certificate_and_refuses_others() -> None:
    made = certificate(Config())
    assert Certificate.from_json(made.to_json(), "memory") == made
    for text, fault in (
        (made.to_json()[:40], "Invalid JSON"),
        (made.to_json().replace('"version": 1', '"version": 2'), "version: "),
        (json.dumps({**made.model_dump(mode="json"), "limit": 0}), "limit: "),
    ):
        with pytest.raises(CalibrationError, match=f"x.json is not a certificate: .*{fault}"):
            Certificate.from_json(text, "x.json")


def test_what_a_report_says() -> None:
    assert certificate(Config()).quote == (
        "certified: accuracy by majority vote at most 5 points below that of the target alone, "
        "with confidence 90 %, on problems like the 2 that it was tested on (1 lost)"
    )
