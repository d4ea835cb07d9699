"""Replayed controls, on made-up recordings and on the shared traces."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killed_run import make_config, make_models
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from atts.analysis.recording import (
    Recording,
    ScoredChain,
    ScoredTurn,
    load_recording,
    recorded_order,
    simulated_order,
)
from atts.analysis.replay import (
    ControlSpec,
    Replayed,
    as_recorded,
    measure,
    replay,
    separations,
)
from atts.cli.app import app
from atts.errors import ConfigError
from atts.runs import jobs

PERPLEXITIES = "calibration/ppls_math500_qwq_32B_rllama_8B_s16_t500_temp0.8_ct1.npy"
TRACE = "traces/math500_emc4_ct1.compact.jsonl.gz"
Make = Callable[..., Recording]


def test_figures_are_counts(make_recording: Make) -> None:
    recording = make_recording(2, 40, 2)
    arrivals = simulated_order(recording, 0, 100)
    taken = np.array([a.step.turn == 0 or a.chain.problem_id == "p1" for a in arrivals])
    figures = measure("x", 0.5, arrivals, taken)
    assert figures.realised.estimate == 0.75
    assert [(g.group, g.decisions, g.realised.estimate) for g in figures.by_turn] == [
        ("turn 0", 80, 1.0),
        ("turn 1", 80, 0.5),
    ]
    assert [g.realised.estimate for g in figures.by_problem] == [0.5, 1.0]
    assert (figures.mean_turn_deviation, figures.largest_turn_deviation) == (0.25, 0.5)
    assert figures.problem_spread == 0.25
    assert sum(g.decisions for g in figures.over_time) == 160
    assert len(figures.over_time) == 20


def test_sparse_turns_and_problems_are_not_judged(make_recording: Make) -> None:
    arrivals = simulated_order(make_recording(4, 4, 2), 0, 100)
    figures = as_recorded(arrivals, 0.4)
    assert figures.mean_turn_deviation is figures.largest_turn_deviation is None
    assert figures.problem_spread is None


def one(recording: Recording, name: str, rate: float = 0.4) -> Replayed:
    return replay(recording, simulated_order(recording, 0, 64), ControlSpec.parse(name), rate, 5)


def test_groups_by_turn_hold_the_rate_at_every_turn(make_recording: Make) -> None:
    recording = make_recording(60, 8, 4)
    pooled, by_turn = one(recording, "split,by_turn=false"), one(recording, "split")
    assert pooled.largest_turn_deviation
    assert by_turn.largest_turn_deviation
    assert pooled.largest_turn_deviation > 0.2
    assert by_turn.largest_turn_deviation < 0.03


def test_adaptive_control_holds_the_rate_of_every_problem(make_recording: Make) -> None:
    recording = make_recording(20, 16, 4)
    spread = {name: one(recording, name).problem_spread or 0.0 for name in ("split", "adaptive")}
    assert spread["split"] > 0.2
    assert spread["adaptive"] < 0.05


def test_marginal_folds_are_other_problems_and_conditional_ones_other_chains() -> None:
    """A problem of very high scores: new to the one, known to the other."""
    chains = [
        ScoredChain(
            f"p{problem}",
            sample,
            None,
            (
                ScoredTurn(
                    0,
                    9.0 * (problem == 7) + 0.01 * ((3 * problem + sample) % 5),
                    False,
                    1.0,
                    None,
                    {},
                ),
            ),
        )
        for problem in range(12)
        for sample in range(20)
    ]
    chains = [
        chain._replace(steps=(chain.steps[0]._replace(scores={"mean": chain.steps[0].score}),))
        for chain in chains
    ]
    recording = Recording("made", 0, tuple(chains))
    rates = {}
    for coverage in ("marginal", "conditional"):
        replayed = one(recording, f"split,coverage={coverage}")
        rates[coverage] = {g.group: g.realised.estimate for g in replayed.by_problem}["p7"]
    assert rates["marginal"] == 1.0
    assert 0.2 < rates["conditional"] < 0.6


def test_a_budget_caps_what_is_replayed(make_recording: Make) -> None:
    replayed = one(make_recording(10, 8, 3), "online,budget.per_turn=1", rate=1.0)
    assert replayed.realised.estimate == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "take_over.control: Input should be"),
        ("online,coverage", "'coverage' is not key=value"),
        ("online,colour=red", "take_over.colour: unknown key"),
        ("online,score.kind=worst-window", "no worst-window scores, only mean"),
    ],
)
def test_a_wrong_control_is_refused(make_recording: Make, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one(make_recording(5, 4, 1), name)


def test_the_auroc_is_that_of_scikit_learn(make_recording: Make) -> None:
    recording = make_recording(20, 8, 3)
    (found,) = separations(recording)
    wrong = [not chain.right for chain in recording.chains]
    scores = [np.mean([step.score for step in chain.steps]) for chain in recording.chains]
    assert found.auroc.estimate == pytest.approx(roc_auc_score(wrong, scores))
    assert found.auroc.low < found.auroc.estimate < found.auroc.high
    assert (found.right, found.wrong) == (len(wrong) - sum(wrong), sum(wrong))


def test_without_wrong_chains_nothing_is_separated(make_recording: Make) -> None:
    recording = make_recording(3, 2, 1)
    right = tuple(chain._replace(right=True) for chain in recording.chains)
    assert separations(recording._replace(chains=right)) == []


def test_the_references_rule_is_reproduced(shared: Path) -> None:
    recording = load_recording(shared / TRACE)
    arrivals = simulated_order(recording, 0, 128)
    rule = ControlSpec.parse(f"split,by_turn=false,calibration={shared / PERPLEXITIES}")
    ours, theirs = replay(recording, arrivals, rule, 0.4, 5), as_recorded(arrivals, 0.4)
    assert theirs.decisions == 6076
    assert ours.realised.estimate == pytest.approx(theirs.realised.estimate, abs=1e-3)
    assert ours.largest_turn_deviation == pytest.approx(theirs.largest_turn_deviation, abs=1e-3)
    assert theirs.largest_turn_deviation == pytest.approx(0.13, abs=0.005)
    assert theirs.problem_spread == pytest.approx(0.26, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_adaptive_control_holds_on_real_scores(shared: Path, rate: float) -> None:
    replayed = one(load_recording(shared / TRACE), "adaptive,coverage=conditional", rate)
    assert abs(replayed.realised.estimate - rate) < 0.01
    assert replayed.mean_turn_deviation
    assert replayed.mean_turn_deviation < 0.02
    assert replayed.largest_turn_deviation
    assert replayed.largest_turn_deviation < 0.05
    assert replayed.problem_spread
    assert replayed.problem_spread < 0.06


def test_the_command_prints_compares_and_plots(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is missing")
    plot = tmp_path / "rates.svg"
    arguments = ["replay", str(trace), "--control", "online", "--control", "adaptive"]
    result = CliRunner().invoke(app, [*arguments, "--plot", str(plot)], env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    for text in ("as recorded", "online", "adaptive", "3 decisions", "AUROC"):
        assert text in result.stdout
    assert "online, 0.4" in plot.read_text()
    result = CliRunner().invoke(app, [*arguments, "--rate", "0.2", "--rate", "0.6", "--json"])
    content = json.loads(result.stdout)
    assert [(each["control"], each["nominal"]) for each in content["replays"]] == [
        (control, rate) for rate in (0.2, 0.6) for control in ("online", "adaptive")
    ]


def test_wrong_use_is_told(trace: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["replay", str(trace), "--control", "x"]).exit_code == 2
    assert run(app, ["replay", str(tmp_path / "none")]).exit_code == 1
    result = run(app, ["replay", str(trace), "--control", "online", "--plot", "rates.nonsense"])
    assert result.exit_code == 2
    assert "cannot draw rates.nonsense" in result.stderr


@pytest.mark.parametrize(
    "name", ["online", "online,coverage=conditional", "adaptive", "online,budget.per_turn=1"]
)
async def test_a_run_is_replayed_decision_by_decision(tmp_path: Path, name: str) -> None:
    """Chains side by side, four at a time: the recorded order and tie-breakers are enough."""
    problems = [{"id": f"p{n}", "question": f"{n}?", "answer": "4"} for n in range(8)]
    source = tmp_path / "problems.jsonl"
    source.write_text("\n".join(map(json.dumps, problems)))
    contender = ControlSpec.parse(name)
    config = make_config(source, tmp_path / "none.json")
    config = config.model_copy(update={"take_over": contender.options})
    await jobs.run(config, make_models(0.0), tmp_path / "run")
    recording = load_recording(tmp_path / "run")
    arrivals = recorded_order(recording)
    again = replay(recording, arrivals, contender, 0.4, 5)
    recorded = as_recorded(arrivals, 0.4)
    assert again.model_copy(update={"control": "as recorded"}) == recorded
    assert recorded.decisions > 60
    assert 0 < recorded.realised.estimate < 1
