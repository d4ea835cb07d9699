"""``method: auto``: what a chain goes by, told by its turns; and that its settings are checked."""

from pathlib import Path

import pytest
from fakes import FakeEngine, by_control, byte_tokenizer

from atts.config import Config, load_config, parse_config
from atts.conformal.factory import make_control
from atts.errors import ConfigError
from atts.methods import METHODS
from atts.methods import auto as method
from atts.methods.balance import Balance
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.decider import Decider, Siblings
from atts.runs.jobs import run
from atts.simulation.deployment import Hardware, SimulatedMethod
from atts.simulation.simulate import simulate
from atts.simulation.workload import load_workload
from atts.types import Chain, Problem, Turn

PROBLEM = Problem(id="p", question="2 + 2?", answer="4")


def models() -> Models:
    return {
        "draft": Model(FakeEngine(lambda _: "d" * 9), byte_tokenizer()),
        "target": Model(FakeEngine(lambda _: "t" * 99, lambda _: -1.0), byte_tokenizer()),
    }


def config(**auto: object) -> Config:
    return parse_config(
        {
            "method": "auto",
            "auto": auto,
            "turns": {"max_turns": 4, "draft_tokens": 8, "target_tokens": 4},
            "samples": 1,
        },
        "a test",
    )


def opened(made: Models, settings: Config) -> OpenChain:
    decider = by_control(make_control(settings.take_over, None))
    return OpenChain(PROBLEM, 0, made, settings, decider)


async def test_without_advice_chains_begin_by_the_target() -> None:
    made = models()
    chain = opened(made, config())
    record = chain.record(await method.solve(chain), 0.0, 1.0)
    assert [turn.decision for turn in record.turns] == [None]
    assert record.kept("target") == 4 * 12
    draft = made["draft"].engine
    assert isinstance(draft, FakeEngine)
    assert not draft.generated


async def test_as_advised_they_begin_by_atts() -> None:
    chain = opened(models(), config(advised={1: 2.0}))
    record = chain.record(await method.solve(chain), 0.0, 1.0)
    assert len(record.turns) == 4
    assert all(turn.decision for turn in record.turns)


async def test_a_chain_goes_on_by_the_target_from_any_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = iter(["atts", "piece", "atts", "rest"])
    monkeypatch.setattr(Balance, "move", lambda *_: next(moves))
    chain = opened(models(), config(advised={1: 2.0}))
    record = chain.record(await method.solve(chain), 0.0, 1.0)
    assert [bool(turn.decision) for turn in record.turns] == [True, False, True, False]
    assert [turn.segments[0].author for turn in record.turns] == [
        "draft", "target", "draft", "target",
    ]  # fmt: skip
    assert sum(segment.kept_tokens for segment in record.segments) <= 4 * 12
    balance = method._BALANCES[chain.models["target"].engine]
    assert balance.in_flight == 0


async def test_a_chain_that_fails_is_no_longer_in_flight() -> None:
    made = models()
    chain = opened(made, config())
    engine = made["target"].engine
    assert isinstance(engine, FakeEngine)
    engine.write = lambda _: 1 / 0  # type: ignore[assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        await method.solve(chain)
    assert method._BALANCES[engine].in_flight == 0


def of_problem(problem_id: str, settings: Config, *finished: Chain) -> Decider:
    made = METHODS["auto"].decider
    assert made
    control = make_control(settings.take_over, None)
    return made(Siblings(problem_id, settings, control, range(3), finished))


async def test_whole_problems_go_one_way_though_the_other_has_become_faster() -> None:
    made, settings = models(), config(whole_problems=True)
    draft = made["draft"].engine
    assert isinstance(draft, FakeEngine)
    records: dict[str, list[Chain]] = {"a": [], "b": []}
    for problem_id, first in (("a", 1.0), ("b", 0.0)):
        decider = of_problem(problem_id, settings)
        for sample in range(3):
            problem = PROBLEM.model_copy(update={"id": problem_id})
            chain = OpenChain(problem, sample, made, settings, decider)
            balance = method._balance(chain)
            balance.share = 1.0 - first if sample else first

            def write(_: object, balance: Balance = balance) -> str:
                balance.share = 0.0  # while the chain is under way
                return "d" * 9

            draft.write = write
            records[problem_id].append(chain.record(await method.solve(chain), 0.0, 1.0))
    by_atts = [[all(turn.decision for turn in one.turns) for one in records[p]] for p in "ab"]
    assert by_atts == [[True] * 3, [False] * 3]
    assert not any(turn.decision for one in records["b"] for turn in one.turns)


async def test_the_rest_of_a_problem_goes_by_what_is_on_record() -> None:
    made, settings = models(), config(whole_problems=True)
    for advised in (True, False):  # what is on record was begun otherwise than it would be now
        before = config(whole_problems=True, advised={1: 2.0} if advised else {})
        recorded = OpenChain(PROBLEM, 0, models(), before, of_problem("p", before))
        finished = recorded.record(await method.solve(recorded), 0.0, 1.0)
        chain = OpenChain(PROBLEM, 1, made, settings, of_problem("p", settings, finished))
        method._balance(chain).share = float(not advised)
        record = chain.record(await method.solve(chain), 0.0, 1.0)
        assert bool(record.turns[0].decision) == advised


@pytest.mark.parametrize("writes", ["draft", "target"])
async def test_what_a_problem_goes_by_is_told_by_who_wrote(writes: str) -> None:
    """Also where no chain on record has come to a decision."""
    settings = config(whole_problems=True, advised={1: 2.0})
    chain = OpenChain(PROBLEM, 1, models(), settings, of_problem("p", settings))
    made = chain.record(await method.solve(chain), 0.0, 1.0)
    by_target = made.model_copy(
        update={"sample": 0, "turns": tuple(without(turn, "draft") for turn in made.turns)}
    )
    undecided = made.model_copy(update={"turns": tuple(without(turn) for turn in made.turns)})
    on_record = [by_target, undecided] if writes == "draft" else [by_target]
    decider = of_problem("p", settings, *on_record)
    assert method._WENT[decider] == ("atts" if writes == "draft" else "target")


def without(turn: Turn, author: str | None = None) -> Turn:
    """A turn without its decision, and without what an author wrote."""
    kept = tuple(each for each in turn.segments if each.author != author)
    return turn.model_copy(update={"decision": None, "segments": kept})


@pytest.mark.parametrize("wrong", ["advised={0: 1.2}", "alone={4: 0.0}"])
def test_what_cannot_be_advice_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="positive numbers"):
        load_config(settings=["method=auto", f"auto.{wrong}"])


async def test_a_run_is_like_any_other(tmp_path: Path) -> None:
    source = tmp_path / "p.jsonl"
    source.write_text('{"id": "p", "question": "2 + 2?", "answer": "4"}\n')
    settings = [f"problems.source={source}", "method=auto", "samples=6", "turns.max_turns=3"]
    summary = await run(load_config(settings=settings), models(), tmp_path / "run")
    assert (summary.chains, summary.failed) == (6, 0)
    assert METHODS["auto"].authors == ("draft", "target")


def test_simulated_it_is_hardly_slower_than_the_target_and_as_fast_as_advised(
    shared_data: Path,
) -> None:
    workload = load_workload(next((shared_data / "traces").glob("*.gz")))
    pair = parse_config(
        {
            "samples": 4,
            "draft": {"model": "Qwen3-1.7B"},
            "target": {"model": "Qwen3-32B"},
            "turns": {"max_turns": 15, "draft_tokens": 500, "target_tokens": 500},
            "take_over": {"mode": "continue", "rate": 0.1, "score": {"kind": "mean"}},
        },
        "a test",
    )

    def seconds(name: str) -> float:
        contender = SimulatedMethod.parse(name)
        return simulate(contender, pair, workload, Hardware(), 8, 8).wall_seconds

    alone = seconds("target-only")
    assert seconds("auto") < alone / 0.95
    assert seconds("auto:auto.advised={8: 3.0}") < alone / 2
