"""How long chains take, against arithmetic by hand, a slow schedule, and simulated servers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.advice.model import Circle, Limits, Work, circle_seconds, course, curve, pace, resampled
from atts.advice.prices import Level, Line, Prices
from atts.analysis.tokens import Tokens
from atts.types import Author, Chain, Decision, Segment, Timings, Turn

CIRCLE = Circle(draft_tokens=50, scores=1.0, score_tokens=50, take_overs=0.5, take_over_tokens=20)
NOW = Timings(queued=0, started=0, first_token=0, done=0)


def servers(*levels: int, power: float = 0.5, **more: float) -> Prices:
    """Of which a request takes n ** power times as long with n in flight."""
    return Prices(
        levels=tuple(
            Level(
                in_flight=n,
                draft=Line(fixed=0.01 * n**power, token=0.002 * n**power),
                target=Line(fixed=0.02 * n**power, token=0.01 * n**power),
                score=Line(fixed=0.03 * n**power, token=0.001 * n**power),
                draft_beside=more.get("beside", 1.0),
                target_beside=more.get("beside", 1.0),
            )
            for n in levels or (1, 4, 16, 64, 256)
        ),
        client_seconds=more.get("client", 0.0),
    )


def test_one_chain_alone_takes_what_its_requests_take() -> None:
    found = circle_seconds(servers(), CIRCLE, 1)
    drafting, scoring, writing = 0.01 + 50 * 0.002, 0.03 + 50 * 0.001, 0.5 * (0.02 + 20 * 0.01)
    assert found.seconds == pytest.approx(drafting + scoring + writing, rel=1e-6)
    assert found.shares["drafting"] == pytest.approx(drafting, rel=1e-6)
    assert found.limited_by == "drafting" if drafting > writing else "writing"


@pytest.mark.parametrize("beside", [1.0, 2.0])
def test_more_in_flight_are_slower_each_and_no_slower_together(beside: float) -> None:
    prices = servers(beside=beside)
    times = [circle_seconds(prices, CIRCLE, n).seconds for n in (1, 2, 4, 16, 64, 256)]
    assert times == sorted(times)
    rates = [n / seconds for n, seconds in zip((1, 2, 4, 16, 64, 256), times, strict=True)]
    assert rates == sorted(rates)


def test_models_that_share_a_gpu_slow_each_other() -> None:
    apart, together = (circle_seconds(servers(beside=b), CIRCLE, 64).seconds for b in (1.0, 2.0))
    assert 1.3 * apart < together < 2.5 * apart


def test_each_server_has_a_part_of_the_chains() -> None:
    """Where the chains wait elsewhere, the target writes as with few in flight."""
    cheap = CIRCLE._replace(take_overs=0.01)
    found = circle_seconds(servers(power=1.0), cheap, 64)
    alone = 0.01 * (0.02 + 20 * 0.01)
    assert found.shares["writing"] < 16 * alone


def test_the_client_is_a_limit() -> None:
    found = circle_seconds(servers(client=0.1), CIRCLE, 256)
    assert found.seconds == pytest.approx(256 * 2.5 * 0.1, rel=1e-3)
    assert found.limited_by == "the client"


def test_a_limit_on_requests_makes_them_wait() -> None:
    free = circle_seconds(servers(power=0.1), CIRCLE, 64).seconds
    held = circle_seconds(servers(power=0.1), CIRCLE, 64, Limits(draft=4, target=4)).seconds
    assert held > 2 * free


def test_writing_ahead_hides_a_part_of_the_scoring() -> None:
    plain, ahead = (
        circle_seconds(servers(), CIRCLE._replace(overlaps=overlaps), 1).seconds
        for overlaps in (False, True)
    )
    assert plain - ahead == pytest.approx(0.5 * 0.08, rel=1e-3)


def test_a_chain_that_is_taken_over_more_often_counts_for_more() -> None:
    at = pace(servers(), CIRCLE)(16)
    mean = Work(10, 500, 500, 100)
    assert at.units(mean) == pytest.approx(10, rel=1e-6)
    assert at.units(mean._replace(written=200)) > 11


def test_one_model_alone_takes_its_line() -> None:
    at = pace(servers(), None, Limits(target=16))(64)
    assert at.seconds == pytest.approx(4 * 4 * 0.01)
    assert at.limited_by == "writing"
    assert pace(servers(), None, author="draft")(1).limited_by == "drafting"
    assert at.units(Work(7)) == 7


def test_a_curve_meets_what_it_interpolates() -> None:
    speed = pace(servers(), CIRCLE)
    for n in (1, 5, 8, 9, 50, 200):
        assert curve(speed)(n).seconds == pytest.approx(speed(n).seconds, rel=0.02)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_a_course_is_that_of_small_steps(units: list[int], in_flight: int) -> None:
    """With whole units and a speed that is even, in steps of a small part."""
    waiting, now = list(units), 0.0
    running: list[float] = []
    while waiting or running:
        while waiting and len(running) < in_flight:
            running.append(float(waiting.pop(0)))
        least = min(running)
        now += least * math.sqrt(len(running))
        running = [each - least for each in running if each - least > 1e-9]
    assert course(units, in_flight, math.sqrt).seconds == pytest.approx(now)


def test_fixed_seconds_come_with_each_wave() -> None:
    found = course([1, 1, 1, 1], 2, lambda _: 1.0, fixed_seconds=0.5)
    assert found == (3.0, 1.5)


def test_chains_are_drawn_by_problem() -> None:
    drawn = [resampled([[1.0] * 3, [2.0] * 3], 6, seed) for seed in range(40)]
    assert {len(each) for each in drawn} == {6}
    assert any(set(each) == {1.0} for each in drawn), "a problem may be left out"
    assert resampled([[1.0, 5.0]], 6, 3) == resampled([[1.0, 5.0]], 6, 3)


def test_what_a_recorded_chain_has_of_everything() -> None:
    def segment(author: Author, tokens: int, former: bool = False) -> Segment:
        return Segment(
            author=author, text="x", tokens=tokens, finish_reason="length",
            cached_tokens=0, timings=NOW, with_former=former,
        )  # fmt: skip

    def chain(*turns: Turn) -> Chain:
        return Chain(
            problem_id="p", sample=0, end="turns", answer=None, turns=turns, started=0, done=1
        )

    decision = Decision(
        score=1, p_value=0.5, take_over=True, scored_tokens=40, cached_tokens=0, timings=NOW
    )
    turn = Turn(segments=(segment("draft", 30), segment("target", 5)), decision=decision)
    former = Turn(segments=(segment("draft", 10, former=True),))
    assert Work.of(chain(turn, former)) == Work(1, 40, 40, 5)
    assert Work.of(chain(Turn(segments=(segment("target", 7),)))) == Work(7)
    tokens = Tokens(
        draft_written=80, draft_requests=2, score_requests=2, target_scored=70,
        target_written=9, target_requests=1,
    )  # fmt: skip
    assert Circle.of(tokens, True) == Circle(40, 1.0, 35, 0.5, 9, True)
    assert Circle.of(Tokens(target_written=9, target_requests=1), False) is None
