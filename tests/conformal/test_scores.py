"""The kinds of score, against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts import registry
from atts.config import ScoreOptions, load_config
from atts.conformal.scores import SegmentLogprobs, all_scores
from atts.errors import ConfigError

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=40).map(np.array)


def test_every_name_has_a_score() -> None:
    one = np.array([-1.0])
    everything = SegmentLogprobs(one, one, np.array([[-0.5, -1.0]]))
    assert set(all_scores(everything, ScoreOptions())) == set(registry.SCORES.found)
    for name in registry.SCORES.found:
        assert load_config(None, [f"take_over.score.kind={name}"]).take_over.score.kind == name
    with pytest.raises(ConfigError, match=r"Input should be 'mean', .* or '"):
        load_config(None, ["take_over.score.kind=magic"])


@given(LOGPROBS, st.integers(1, 50), st.floats(-10, 0))
def test_scores_are_as_defined(
    logprobs: np.ndarray[tuple[int], np.dtype[np.float64]], window: int, floor: float
) -> None:
    draft = np.roll(logprobs, 1)
    scores = all_scores(SegmentLogprobs(logprobs, draft), ScoreOptions(window=window, floor=floor))
    assert scores["mean"] == pytest.approx(-sum(logprobs) / len(logprobs))
    width = min(window, len(logprobs))
    means = [logprobs[i : i + width].mean() for i in range(len(logprobs) - width + 1)]
    assert scores["worst-window"] == pytest.approx(-min(means), abs=1e-9)
    assert scores["worst-window"] >= scores["mean"] * (1 - 1e-9) - 1e-9 or width < len(logprobs)
    assert scores["largest-surprise"] == -min(logprobs)
    assert scores["ratio"] == max(p - q for p, q in zip(draft, logprobs, strict=True))
    assert scores["draft-surprise"] == -min(draft)
    below = [value for value in logprobs if value < floor]
    assert scores["unlikely-share"] == len(below) / len(logprobs)


def test_a_bad_step_in_a_long_segment_shows_in_its_worst_window() -> None:
    options = ScoreOptions(window=8)
    fine = np.full(500, -0.3)
    bad = fine.copy()
    bad[100:108] = -5.0
    ratios = {
        name: score / all_scores(SegmentLogprobs(fine), options)[name]
        for name, score in all_scores(SegmentLogprobs(bad), options).items()
        if name != "unlikely-share"
    }
    assert ratios["mean"] < 1.3
    assert ratios["worst-window"] > 10
