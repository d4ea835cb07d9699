"""What follows of a pilot and of prices, and what is recommended."""

import math
from pathlib import Path

import pytest

from atts.advice.advice import OFF_BY, Advice, Asked, advise, advise_relatively
from atts.advice.advising import (
    advise_on_runs,
    not_probed,
    read_advice,
    recommended,
    write_advice,
)
from atts.advice.pilot import (
    Found,
    findings,
    fly,
    prepare_pilot,
    segments_of,
    usual_ways,
)
from atts.advice.prices import Level, Line, Prices
from atts.analysis.comparison import NamedRun
from atts.config import Config, load_config
from atts.errors import ConfigError, ProblemError, StoreError
from atts.grading.grader import Grader, VerdictCache
from atts.methods.auto import AutoOptions
from atts.methods.chain import Models
from atts.runs.observer import SilentObserver

WAYS = ["atts:take_over.rate=0.4", "draft-only"]


def priced(target: float, draft: float = 0.001, score: float = 0.0001, **more: int) -> Prices:
    """Servers with as much room for one more as one could wish for."""
    return Prices(
        levels=tuple(
            Level(
                in_flight=n,
                draft=Line(fixed=0.001, token=draft),
                target=Line(fixed=0.001, token=target),
                score=Line(fixed=0.001, token=score),
            )
            for n in (1, 64)
        ),
        **more,
    )


async def flown(config: Config, folder: Path) -> tuple[list[NamedRun], list[Found]]:
    pilot = prepare_pilot(config, WAYS, folder / "pilot", count=6, samples=3)
    assert pilot.chains == 18
    with Grader(cache=VerdictCache()) as grader:
        runs = await fly(pilot, grader, lambda _: SilentObserver(), print)
        return runs, findings(runs, grader)[0]


async def test_a_pilot_never_meets_the_evaluation(
    planned: Config, tmp_path: Path, opened: list[Models]
) -> None:
    runs, found = await flown(planned, tmp_path)
    assert len(opened) == 3
    assert {p.id for named in runs for p in named.run.problems} == {
        f"calibrating{n}" for n in range(6)
    }
    assert [each.name for each in found] == ["target-only", *WAYS]
    assert [each.circle is None for each in found] == [True, False, True]
    assert found[2].author == "draft"
    alone, atts, draft = found
    assert alone.figures.accuracy.estimate == 1.0
    assert draft.figures.accuracy.estimate < 1.0
    assert alone.kept == pytest.approx(30, abs=1)
    assert 2 <= segments_of([atts])[0] < segments_of([atts])[1]
    assert segments_of([alone]) == (16, 48)
    assert sum(work.circles for work in atts.in_order) >= 18
    again, _ = await flown(planned, tmp_path)
    assert len(opened) == 3, "what is there is not made again"
    assert [each.run.chains for each in again] == [each.run.chains for each in runs]


@pytest.mark.usefixtures("opened")
async def test_where_the_target_is_dear_the_other_way_is_recommended(
    planned: Config, tmp_path: Path
) -> None:
    _, found = await flown(planned, tmp_path)
    asked = Asked((1, 4, 64), chains=16, bound=0.9)
    dear = advise(found[:2], 6, priced(target=0.1), asked)
    assert dear.choice
    assert dear.choice.name == WAYS[0]
    assert dear.choice.speedup.low > 1.0
    assert "Use atts" in dear.why
    assert [one.in_flight for one in dear.ways[0].predictions] == [1, 4], "64 are never there"
    made = recommended(planned, dear)
    assert (made.method, made.take_over.rate, made.limits.chains) == ("atts", 0.4, 4)
    assert made.problems == planned.problems
    follows = recommended(planned, dear, auto=True)
    assert (follows.method, follows.take_over.rate) == ("auto", 0.4)
    told = follows.of(AutoOptions)
    assert set(told.advised) == set(told.alone) == {1, 4}
    assert told.advised[4] > 1.0

    cheap = advise(found[:2], 6, priced(target=0.001, draft=0.01), asked)
    assert cheap.choice is None
    assert cheap.why.startswith("Use the target alone: atts")
    assert recommended(planned, cheap).method == "target-only"
    strict = advise(found, 6, priced(target=0.1), asked._replace(bound=0.0))
    if all(way.loss and way.loss.estimate < 0 for way in strict.ways[1:]):
        assert strict.choice is None
        assert "loses more than 0 points" in strict.why
    off = math.exp(1.96 * OFF_BY)
    for way in dear.ways:
        for one in way.predictions:
            for interval in (one.seconds, one.tokens_per_second):
                assert interval.estimate / interval.low >= 0.999 * off, "the model itself is off"
                assert interval.high / interval.estimate >= 0.999 * off
    alone = {tuple(one.speedup.model_dump().values()) for one in dear.ways[0].predictions}
    assert alone == {(1.0, 1.0, 1.0)}


@pytest.mark.usefixtures("opened")
async def test_time_for_a_chain_at_its_limit(planned: Config, tmp_path: Path) -> None:
    """The target may write 6 x 80 tokens, and no chain of the pilot did: 30 each."""
    _, found = await flown(planned, tmp_path)
    asked = Asked((1, 16), chains=16, bound=0.9)
    alone = advise(found[:2], 6, priced(target=0.1), asked).ways[0]
    assert alone.as_predicted
    assert alone.as_predicted < 0.1, "these stand-ins are far faster than they are priced"
    one, many = alone.predictions
    assert many.seconds.high == pytest.approx(480 * 0.1 + 0.001)
    assert many.seconds.estimate < 5
    assert one.seconds.high > many.seconds.high
    stopped = [
        [chain.model_copy(update={"end": "turns"}) for chain in some] for some in found[0].chains
    ]
    seen = [found[0]._replace(chains=stopped), found[1]]
    known = advise(seen, 6, priced(target=0.1), asked).ways[0]
    assert known.predictions[1].seconds.high < 5


@pytest.mark.usefixtures("opened")
async def test_a_full_cache_is_a_limit(planned: Config, tmp_path: Path) -> None:
    _, found = await flown(planned, tmp_path)
    asked = Asked((1, 4), chains=16, bound=0.9, prompt=20.0)
    held = advise(found, 6, priced(target=0.1, target_room=120), asked)
    assert [one.limited_by for one in held.ways[0].predictions] == ["writing", "the cache"]
    assert held.ways[2].predictions[1].limited_by == "drafting", "the draft has room"
    one, four = held.ways[0].predictions
    free = advise(found, 6, priced(target=0.1), asked).ways[0].predictions[1]
    assert free.seconds.estimate < four.seconds.estimate < one.seconds.estimate


@pytest.mark.usefixtures("opened")
async def test_stored_runs_need_no_servers(planned: Config, tmp_path: Path) -> None:
    runs, found = await flown(planned, tmp_path)
    runs = [run._replace(name=f"run{n}") for n, run in enumerate(runs)]
    with Grader(cache=VerdictCache()) as grader:
        costed = advise_on_runs(runs[::-1], grader, 0.9, (0.1, 0.0))
        assert costed.ways[0].relative == 1.0
        draft = next(way for way in costed.ways if way.target_written == 0)
        assert draft.relative == pytest.approx(0.1 * draft.draft_written / 30, rel=0.05)
        assert costed.choice
        assert f"method={found[2].config.method}" in costed.choice.settings
        assert advise_on_runs(runs, grader, 0.9, (9.0, 9.0)).choice is None
        measured = advise_on_runs(runs, grader, 0.9)
        assert measured.by == "the runs' own wall times"
        assert all(way.relative for way in measured.ways)
        before = advise(found, 6, priced(target=0.1), Asked((1, 4), 16, 0.9, 20.0))
        again = advise_on_runs(runs, grader, 0.9, before=before, levels=(1, 4))
        assert again.ways[0].predictions[0].in_flight == 1
        beyond = advise_on_runs(runs, grader, 0.9, before=before, levels=(4, 64, 65), chains=400)
        assert [one.in_flight for one in beyond.ways[0].predictions] == [4, 64], "no price, no word"
        of_all = advise_on_runs(runs, grader, 0.9, before=before, chains=400)
        assert [one.in_flight for one in of_all.ways[0].predictions] == [1, 64]
        assert not_probed(beyond, (4, 64, 65)) == [65]
        assert not_probed(measured, (4, 64, 65)) == [], "the runs' own times say nothing of numbers"
        with pytest.raises(ConfigError, match="none of these runs is of the target alone"):
            findings(runs[1:], grader)
    nothing = advise_relatively(found[:1], 6, 0.1, None)
    assert nothing.why.startswith("Use the target alone: every way")


@pytest.mark.usefixtures("opened")
async def test_advice_is_kept_as_it_is(planned: Config, tmp_path: Path) -> None:
    _, found = await flown(planned, tmp_path)
    advice = advise(found, 6, priced(target=0.1), Asked((1, 4), 16, 0.9))
    write_advice(tmp_path / "advice.json", advice)
    assert read_advice(tmp_path / "advice.json") == advice
    with pytest.raises(StoreError, match="cannot read"):
        read_advice(tmp_path / "none.json")
    (tmp_path / "wrong.json").write_text('{"version": 1}')
    with pytest.raises(StoreError, match="no advice of atts advise"):
        read_advice(tmp_path / "wrong.json")
    assert isinstance(advice, Advice)


def test_what_cannot_be_tried_is_refused(planned: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense is no method"):
        prepare_pilot(planned, ["nonsense"], tmp_path, 4, 2)
    source = tmp_path / "calibrating.jsonl"
    source.write_text('{"id": "bare", "question": "2 + 2?"}\n')
    with pytest.raises(ConfigError, match="bare has no gold answer"):
        prepare_pilot(planned, WAYS, tmp_path, 4, 2)
    lacking = planned.model_copy(update={"calibration": Config().calibration})
    with pytest.raises(ProblemError, match=r"calibration\.problems\.source"):
        prepare_pilot(lacking, WAYS, tmp_path, 4, 2)


def test_what_is_tried_by_itself_can_be_run() -> None:
    for settings in ([], ["take_over.mode=continue", "take_over.score.kind=mean"]):
        names = usual_ways(load_config(settings=settings))
        assert names[0] == "target-only"
        assert len(names) >= 5
