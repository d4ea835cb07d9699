"""The tracker: inside its stated bounds for any sequence, and what it does on resuming."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import AdaptiveOptions, Track
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict
from atts.conformal.split import SplitControl

LARGEST = math.nextafter(1.0, 0.0)
TRACKS: tuple[Track, ...] = ("all", "turn", "problem", "turn+problem")


class GivenPValues(Control):
    """The score is the p-value."""

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict.of(score, 0.4)


def adaptive(rate: float, track: Track, step: float = 0.1, decay: float = 0.0) -> AdaptiveControl:
    options = AdaptiveOptions(track=track, step=step, decay=decay)
    return AdaptiveControl(GivenPValues(), rate, options)


def threshold_of(control: AdaptiveControl, rate: float, problem: str, turn: int) -> float:
    """What the next decision there will be compared with."""
    return rate + sum(tracker.offset for tracker in control._trackers(problem, turn))


Sequence = Callable[[np.random.Generator], Iterator[float]]


def iid(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield rng.random()


def drifting(rng: np.random.Generator) -> Iterator[float]:
    centre = 0.9
    while True:
        centre = float(np.clip(centre - 0.002 + 0.01 * rng.normal(), 0, 1))
        yield float(np.clip(centre + 0.1 * rng.normal(), 0, 1))


def switching(rng: np.random.Generator) -> Iterator[float]:
    while True:
        low = rng.random() < 0.5
        for _ in range(int(rng.integers(5, 200))):
            yield rng.random() * 0.1 + (0.0 if low else 0.9)


@pytest.mark.parametrize("sequence", [iid, drifting, switching])
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_inside_the_bound_at_every_time(sequence: Sequence, track: Track, rate: float) -> None:
    rng = np.random.default_rng(2)
    control, p_values = adaptive(rate, track), sequence(rng)
    for t in range(1500):
        problem = f"p{int(rng.integers(1 + t // 100, 4 + t // 100))}"
        control.decide(problem, min(int(rng.geometric(0.4)) - 1, 9), next(p_values), 0.5)
        if t % 50 == 0:
            assert all(abs(row.deviation) <= row.bound for row in control.tracked())
    groups = {row.group.split(" ")[0] for row in control.tracked()}
    assert groups == {"all", *track.split("+")}


@pytest.mark.parametrize("decay", [0.0, 0.6])
@pytest.mark.parametrize("track", ["all", "turn", "problem"])
@pytest.mark.parametrize("adversary", ["most", "least", "contrary"])
def test_inside_the_bound_against_an_adversary(track: Track, decay: float, adversary: str) -> None:
    """It knows the threshold before it chooses: just below it, or just above, as hurts most."""
    rate = 0.3
    control = adaptive(rate, track, decay=decay)
    for t in range(400):
        threshold = threshold_of(control, rate, f"p{t % 3}", t % 4)
        # "contrary": long spells of either
        below = (t // 60) % 2 == 0 if adversary == "contrary" else adversary == "most"
        p = min(max(threshold if below else math.nextafter(threshold, 2), 0.0), 1.0)
        control.decide(f"p{t % 3}", t % 4, p, 0.5)
        assert all(abs(row.deviation) <= row.bound for row in control.tracked())


def test_inside_the_bound_against_an_adversary_over_turns_and_problems() -> None:
    """It chooses the place too: where the deviation of a group can be driven up further."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        control = adaptive(0.4, "turn+problem")
        most = 0.0
        for _ in range(1500):
            places = [(f"p{rng.integers(5)}", int(rng.integers(5))) for _ in range(4)]

            turns = control._turns
            problem, turn = min(places, key=lambda place: turns[place[1]].offset)
            threshold = threshold_of(control, 0.4, problem, turn)
            p = threshold if 0 <= threshold <= 1 else rng.random()
            control.decide(problem, turn, p, 0.5)
        for row in control.tracked():
            assert abs(row.deviation) <= row.bound
            most = max(most, abs(row.deviation) / row.bound)
        assert most > 0.02, "the adversary has no effect"


def test_the_bound_of_a_constant_step_is_nearly_met() -> None:
    """Nothing but take-overs at first: the bound is not idle."""
    control = adaptive(0.4, "all")
    ratios = []
    for _ in range(20):
        control.decide("p", 0, 0.0, 0.5)
        (row,) = control.tracked()
        ratios.append(row.deviation / row.bound)
    assert max(ratios) > 0.6


def test_the_bounds_are_the_formulas() -> None:
    control = adaptive(0.4, "all", step=0.05)
    for _ in range(100):
        control.decide("p", 0, 0.7, 0.5)
    assert control.tracked()[0].bound == pytest.approx((0.6 + 0.05) / (0.05 * 100))
    control = adaptive(0.4, "turn", step=0.5, decay=0.6)
    for _ in range(100):
        control.decide("p", 3, 0.7, 0.5)
    assert control.tracked()[1].bound == pytest.approx(1.5 / (0.5 * 100**-0.6 * 100))
    control = adaptive(0.4, "turn+problem", step=0.1)
    for t in range(100):
        control.decide(f"p{t % 4}", t % 2, 0.7, 0.5)
    most = math.sqrt(100 * (2 * 0.24 / 0.1 + 2 * 0.36))
    assert [row.bound for row in control.tracked()] == pytest.approx(
        [most * math.sqrt(2) / 100] + [most / 50] * 2 + [most / 25] * 4
    )


def test_decaying_steps_settle_at_the_quantile_of_iid_scores() -> None:
    rng = np.random.default_rng(6)
    late = {}
    for decay in (0.0, 0.6):
        control = adaptive(0.4, "all", step=0.5, decay=decay)
        drawn = [control.decide("p", 0, rng.random() ** 2, 0.5).threshold for _ in range(5000)]
        late[decay] = np.array(drawn[-1000:])
    # A step eta leaves a standard deviation of about sqrt(eta eps (1 - eps) / (2 f)), where f is
    # the density at the quantile, 1.25.
    spread = math.sqrt(0.5 * 5000**-0.6 * 0.24 / 2.5)
    assert np.abs(late[0.6] - 0.4**2).max() < 4.5 * spread
    assert late[0.6].std() < 0.2 * late[0.0].std()


def test_decaying_steps_over_turns_and_problems_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adaptive\.decay=0, or adaptive\.track to all"):
        adaptive(0.4, "turn+problem", decay=0.5)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_at_the_ends_the_threshold_stays(rate: float) -> None:
    control = adaptive(rate, "turn+problem")
    verdicts = [control.decide("p", 0, p, 0.5) for p in (0.0, 1.0, 0.5)]
    assert [v.take_over for v in verdicts] == [rate == 1.0] * 3
    assert {v.threshold for v in verdicts} == {rate}
    assert all(row.deviation == 0.0 for row in control.tracked())


def test_without_decisions_nothing_is_tracked() -> None:
    assert adaptive(0.4, "turn").tracked() == []


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 1)), max_size=60),
    st.sampled_from(TRACKS),
    st.floats(0.01, 0.99),
)
def test_the_updates_telescope(
    decisions: list[tuple[int, int, float]], track: Track, rate: float
) -> None:
    """The deviation of a group is its offset over the step, so the state is no more than that."""
    control = adaptive(rate, track)
    for problem, turn, p in decisions:
        control.decide(f"p{problem}", turn, p, 0.5)
    offsets = {f"turn {turn}": tracker.offset for turn, tracker in control._turns.items()}
    offsets |= {f"problem {name}": tracker.offset for name, tracker in control._problems.items()}
    if track == "all":
        offsets["all"] = control._all.offset
    rows = {row.group: row for row in control.tracked()}
    assert rows.keys() - {"all"} == offsets.keys() - {"all"}
    for group, offset in offsets.items():
        if decisions:
            deviation = rows[group].deviation * rows[group].decisions
            assert deviation == pytest.approx(-offset / 0.1, abs=1e-9)


def test_equals_the_adaptive_inference_of_mapie() -> None:
    """Its interval |y| <= quantile misses where our p-value, with u close to 1, is at most q."""
    regression = pytest.importorskip("mapie.regression", reason="mapie is missing")
    from sklearn.dummy import DummyRegressor

    rng = np.random.default_rng(0)
    half = rng.normal(size=100)
    # mapie takes both tails of signed residuals; on a symmetric set that is one tail of |y|.
    x, residuals = np.zeros((200, 1)), np.concatenate([half, -half])
    zero = DummyRegressor(strategy="constant", constant=0.0).fit(x, residuals)
    oracle = regression.TimeSeriesRegressor(zero, method="aci", cv="prefit").fit(x, residuals)
    scores = tuple((score,) for score in np.abs(half).tolist())
    calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores={"a": scores})
    split = SplitControl(calibration, 0.4)
    ours = AdaptiveControl(split, 0.4, AdaptiveOptions(track="all", step=0.02))
    threshold, compared = 0.4, 0
    while compared < 120:
        y = 1.3 * rng.normal()
        p = split.decide("b", 0, abs(y), LARGEST).p_value
        # Quantiles of 100 numbers are defined in more than one way: leave out the borderline.
        if abs(p - threshold) < 2 / 101:
            continue
        ours.decide("b", 0, abs(y), LARGEST)
        threshold = 0.4 + ours._all.offset
        oracle.adapt_conformal_inference(x[:1], np.array([y]), gamma=0.02, confidence_level=0.6)
        assert oracle.current_alpha[0.4] == pytest.approx(threshold, abs=1e-12)
        compared += 1
    assert ours.tracked()[0].deviation != 0.0
