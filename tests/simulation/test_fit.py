"""Fitting gives back the efficiencies that a run was made with."""

from pathlib import Path

import numpy as np
import pytest

from atts.config import Config
from atts.errors import ConfigError
from atts.simulation import fit
from atts.simulation import workload as workload_module
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.fit import (
    Measured,
    fit_run,
    least_squares,
    measured_requests,
    read_fit,
    replay,
    with_efficiency,
)
from atts.simulation.hardware import Efficiency
from atts.simulation.simulate import simulate
from atts.simulation.workload import Workload
from atts.store.run_directory import RecordedRun, RunStore
from atts.types import Chain, Decision, Problem, Segment, Timings, Turn

TRUE = Efficiency(
    compute=0.4,
    bandwidth=0.6,
    step_seconds=0.003,
    row_seconds=0.0001,
    request_seconds=0.05,
)


def test_known_parameters_are_recovered(pair: Config) -> None:
    """From requests of all kinds: alone and in crowds, short and long, written and scored."""
    numbers = np.random.default_rng(1)
    requests = []
    for crowd, start in ((1, 0.0), (4, 20.0), (100, 40.0), (300, 80.0)):
        for _ in range(crowd):
            scored = numbers.random() < 0.3
            length = int(numbers.integers(20, 3_000))
            requests.append(
                Measured(
                    author="target",
                    phase="score" if scored else "target segment",
                    problem_id="p",
                    queued=start,
                    seconds=0.0,
                    length=length,
                    cached=length // 2,
                    scored_from=length // 2 if scored else None,
                    write=0 if scored else int(numbers.integers(1, 300)),
                )
            )
    hardware = Hardware(target=ModelHardware(cache_tokens=10**7))
    limits = pair.limits.model_copy(update={"target_requests": 300})
    pair = pair.model_copy(update={"limits": limits})
    truth = replay(requests, pair, with_efficiency(hardware, {"target": TRUE}))
    (found,) = least_squares(
        lambda each: np.log(
            replay(requests, pair, with_efficiency(hardware, {"target": each[0]})) / truth
        ),
        [Efficiency()],
    )
    for name in Efficiency.model_fields:
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.02), name


def test_a_simulated_run_is_fitted(
    workload: Workload, pair: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A script's texts say nothing of how many characters a token has.
    for user in (fit, workload_module):
        monkeypatch.setattr(
            user, "prompt_lengths", lambda run, _: {problem.id: 150 for problem in run.problems}
        )
    hardware = Hardware(draft=ModelHardware(efficiency=TRUE), target=ModelHardware(efficiency=TRUE))
    chains: list[Chain] = []
    contender = SimulatedMethod.parse("atts:limits.overlap=off")
    outcome = simulate(contender, pair, workload, hardware, 8, 12, finished=chains.append)
    config = contender.config(pair, 8)
    problems = [workload.problem(number) for number in range(12)]
    with RunStore.open(tmp_path / "run", config, problems, None) as store:
        for chain in chains:
            store.append(chain)
    found = fit_run(tmp_path / "run", Hardware())
    for phase in found.phases:
        assert phase.ratio == pytest.approx(1.0, abs=0.1)
        assert phase.simulated_seconds == pytest.approx(phase.measured_seconds, rel=0.1)
    assert found.measured_wall_seconds == pytest.approx(outcome.wall_seconds)
    assert found.simulated_wall_seconds == pytest.approx(outcome.wall_seconds, rel=0.15)
    path = tmp_path / "fitted.json"
    path.write_text(found.model_dump_json())
    assert read_fit(path) == found.efficiency


def test_segments_of_one_request_are_one_request(pair: Config) -> None:
    """Two of the draft's segments came and were scored at once, the third alone."""
    turns = []
    for number, former in enumerate((False, True, False)):
        start = 3.0 if number == 2 else 0.0
        segment = Segment(
            author="draft",
            text="word " * 10,
            tokens=10,
            finish_reason="length",
            cached_tokens=0,
            timings=Timings(queued=start, started=start, first_token=start, done=start + 1),
            with_former=former,
        )
        decision = Decision(
            score=0.1,
            p_value=0.5,
            take_over=False,
            scored_tokens=12,
            cached_tokens=0,
            timings=Timings(
                queued=start + 1, started=start + 1, first_token=start + 2, done=start + 2
            ),
            with_former=former,
        )
        turns.append(Turn(segments=(segment,), decision=decision))
    chain = Chain(
        problem_id="p",
        sample=0,
        turns=tuple(turns),
        end="turns",
        answer=None,
        started=0.0,
        done=6.0,
    )
    problem = Problem(id="p", question="q", answer="a")
    run = RecordedRun(config=pair, problems=(problem,), chains=(chain,))
    sent = [(each.phase, each.write, each.scored_from) for each in measured_requests(run)]
    prompt = measured_requests(run)[0].length
    assert sent == [
        ("draft segment", 20, None),
        ("score", 0, prompt),
        ("draft segment", 10, None),
        ("score", 0, prompt + 20),
    ]
    assert measured_requests(run)[1].length == prompt + 22


def test_runs_that_say_nothing_are_refused(pair: Config, tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "run", pair, [], None):
        pass
    with pytest.raises(ConfigError, match="no timings"):
        fit_run(tmp_path / "run", Hardware())
    with pytest.raises(ConfigError, match="holds no efficiencies"):
        read_fit(tmp_path / "run" / "config.yaml")
