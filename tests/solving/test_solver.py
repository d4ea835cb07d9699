"""Questions that come and go, over scripted engines."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.errors import AttsError, BusyError, CalibrationError, ConfigError, StoreError
from atts.methods.chain import Model, Models
from atts.runs import jobs
from atts.solving import solution
from atts.solving.deciders import MOST, WINDOW, Variant
from atts.solving.listening import ChainDone, Event, Piece
from atts.solving.question import Question, as_problem, with_overrides
from atts.solving.solver import Asked, Solver
from atts.types import Case, Chain, Problem, ProgramTests, Turn


def config(**tree: Any) -> Config:  # noqa: ANN401
    base = {
        "samples": 2,
        "turns": {"max_turns": 4, "draft_tokens": 12, "target_tokens": 12},
        "limits": {"chains": 4, "chains_min": 4, "overlap": "on"},
    }
    return parse_config({**base, **tree}, "a test")


def models(
    draft: Callable[[str], str] = lambda _: "So \\boxed{4}",
    target: Callable[[str], str] = lambda _: "No: \\boxed{5}",
    seconds: float = 0.0,
) -> Models:
    return {
        "draft": Model(FakeEngine(draft, seconds=seconds), byte_tokenizer()),
        "target": Model(FakeEngine(target, seconds=seconds), byte_tokenizer()),
    }


def ask(text: str = "2 + 2?", of: Config | None = None, **more: Any) -> Question:  # noqa: ANN401
    return Question(problem=as_problem(text), config=of or config(), **more)


async def events_of(solver: Solver, question: Question) -> list[Event]:
    async with solver.ask(question) as asked:
        return [event async for event in asked]


def text_of(events: list[Event], sample: int) -> str:
    return "".join(e.text for e in events if isinstance(e, Piece) and e.sample == sample)


async def test_a_bare_question_is_solved_and_voted_on() -> None:
    async with Solver(config(), models()) as solver:
        solution = await solver.solve(ask(of=config(samples=3, take_over={"rate": 0.0})))
    assert solution.answer == "4"
    assert [(vote.answer, vote.chains) for vote in solution.votes] == [("4", (0, 1, 2))]
    assert solution.tokens == {"draft": 36, "target": 0}
    assert solution.take_over_rate == 0.0


async def test_what_is_streamed_is_what_the_chain_holds_and_never_changes() -> None:
    # Half of the draft's text is cut off again, and none of that is ever sent.
    opened = models(draft=lambda _: "abcdefghijkl", target=lambda _: "T" * 12)
    rewinding = config(samples=4, take_over={"rate": 0.5, "mode": "replace"})
    async with Solver(config(), opened) as solver:
        events = await events_of(solver, ask(of=rewinding))
    done = [event for event in events if isinstance(event, ChainDone)]
    assert sorted(event.sample for event in done) == [0, 1, 2, 3]
    for event in done:
        assert text_of(events, event.sample) == event.chain.text == event.reply
        last = max(n for n, e in enumerate(events) if e.sample == event.sample)
        assert events[last] is event
    authors = {e.author for e in events if isinstance(e, Piece)}
    assert authors == {"draft", "target"}
    assert all(
        set(e.text) == {"T"} if e.author == "target" else "T" not in e.text
        for e in events
        if isinstance(e, Piece)
    )


async def test_pieces_come_before_the_chain_has_ended() -> None:
    gate = asyncio.Event()

    class Held(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:
            if len(self.generated) == 1:
                await gate.wait()
            return await super().generate(request)

    opened = models()
    opened["draft"] = Model(Held(lambda _: "twelve chars"), byte_tokenizer())
    question = ask(of=config(samples=1, take_over={"rate": 0.0}, limits={"overlap": "off"}))
    async with Solver(config(), opened) as solver, solver.ask(question) as asked:
        events = aiter(asked)
        assert await anext(events) == Piece(0, "draft", False, "twelve chars")
        gate.set()


async def test_thought_and_reply_are_told_apart() -> None:
    texts = iter(["<think>he", "re</thi", "nk>It is \\boxed{4}"])
    opened = models(draft=lambda _: next(texts))
    short = config(samples=1, take_over={"rate": 0.0}, turns={"draft_tokens": 20})
    opened["draft"] = Model(_Going(lambda _: next(texts)), byte_tokenizer())
    async with Solver(config(), opened) as solver:
        events = await events_of(solver, ask(of=short))
    *pieces, done = events
    assert [(e.in_thought, e.text) for e in pieces if isinstance(e, Piece)] == [
        (True, "he"),
        (True, "re"),
        (False, "It is \\boxed{4}"),
    ]
    assert isinstance(done, ChainDone)
    assert (done.thought, done.reply) == ("here", "It is \\boxed{4}")


class _Going(FakeEngine):
    """Never writes its end-of-sequence."""

    async def generate(self, request: GenerateRequest) -> Completion:
        return (await super().generate(request))._replace(finish_reason="length")


@pytest.mark.parametrize("method", ["atts", "target-only"])
async def test_a_text_to_stop_at_ends_a_chain_across_segments_too(method: str) -> None:
    texts = ["one END", "ING two"] if method == "atts" else ["one ENDING two"]
    left = list(texts)
    opened: Models = {
        author: Model(_Going(lambda _: left.pop(0)), byte_tokenizer())
        for author in ("draft", "target")
    }
    stopping = with_overrides(
        config(samples=1, method=method, take_over={"rate": 0.0}), stop=["ENDING"]
    )
    async with Solver(config(), opened) as solver:
        events = await events_of(solver, ask(of=stopping))
    done = events[-1]
    assert isinstance(done, ChainDone)
    assert (done.reply, done.stopped_at, done.chain.end) == ("one ", "ENDING", "stop")
    assert text_of(events, 0) == "one "


@pytest.mark.parametrize("overlap", ["on", "off"])
@pytest.mark.parametrize("method", ["atts", "target-only", "specreason", "speculative-thinking"])
async def test_a_chain_has_no_more_tokens_than_it_may(method: str, overlap: str) -> None:
    opened: Models = {
        author: Model(_Going(lambda _: "abcdefghijklmnopqrst"[:12]), byte_tokenizer())
        for author in ("draft", "target")
    }
    of = config(samples=1, method=method, limits={"overlap": overlap})
    async with Solver(config(), opened) as solver:
        solution = await solver.solve(ask(of=of, max_tokens=17))
    (chain,) = solution.chains
    assert chain.end == "turns"
    assert 0 < sum(segment.kept_tokens for segment in chain.segments) <= 17


async def test_leaving_a_question_aborts_its_chains_and_leaves_nothing_behind() -> None:
    opened = models(seconds=3600.0)
    question, other = ask("1?"), ask("2?")
    async with Solver(config(), opened) as solver:
        async with solver.ask(other) as stays:
            async with solver.ask(question) as asked:
                while asked.begun < 2 or stays.begun < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                assert (solver.open_chains, solver.in_flight, solver.waiting) == (4, 4, 0)
            draft = opened["draft"].engine
            assert isinstance(draft, FakeEngine)
            assert (draft.aborted, draft.in_flight) == (2, 2)
            assert (solver.open_chains, solver.in_flight) == (2, 2)
        assert (draft.aborted, draft.in_flight) == (4, 0)
        assert (solver.open_chains, solver.in_flight, solver.waiting) == (0, 0, 0)
    assert len(asyncio.all_tasks()) == 1


async def test_chains_of_all_questions_share_one_pool_in_turn() -> None:
    opened = models(seconds=0.001)
    many = config(samples=8)
    async with Solver(config(limits={"chains": 2, "chains_min": 2}), opened) as solver:
        ended: list[str] = []

        async def one(name: str) -> None:
            async with solver.ask(ask(name, of=many)) as asked:
                async for event in asked:
                    ended.extend([name] if isinstance(event, ChainDone) else [])

        await asyncio.gather(one("first"), one("second"))
    draft = opened["draft"].engine
    assert isinstance(draft, FakeEngine)
    assert draft.most_in_flight <= 2
    assert ended.index("second") < 4  # and not after all of the first


async def test_more_than_may_wait_is_refused() -> None:
    opened = models(seconds=3600.0)
    tight = config(limits={"chains": 2, "chains_min": 2})
    async with Solver(tight, opened, most_waiting=2) as solver:
        first, second = solver.ask(ask("1?")), solver.ask(ask("2?"))
        async with first, second:
            with pytest.raises(BusyError, match="4 chains would wait"):
                solver.ask(ask("3?"))
        solver.ask(ask("3?"))


async def test_the_decider_lives_on_across_questions_and_processes(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with Solver(config(), models(), state=state) as solver:
        for number in range(5):
            await solver.solve(ask(f"{number}?"))
        (variant,) = solver.variants
        before = _state(variant)
        assert before["all"][1] >= 10  # decisions
        assert variant.setup.control is not None
        assert not vars(variant.setup.control)["_problems"]  # nothing stays of a single question
    async with Solver(config(), models(), state=state) as solver:
        (variant,) = solver.variants
        assert _state(variant) == before
        await solver.solve(ask("more?"))
        assert _state(variant)["all"][1] > before["all"][1]


def _state(variant: Variant) -> dict[str, Any]:
    assert variant.setup.control
    return variant.setup.control.state()


async def test_scores_that_are_held_are_bounded() -> None:
    async with Solver(config(), models()) as solver:
        control = solver.variants[0].setup.control
        assert control
        for number in range(WINDOW + 50):
            control.decide("q", 0, float(number), 0.5)
        ((_, scores),) = control.state()["ranks"]["scores"]
        assert scores == [float(number) for number in range(50, WINDOW + 50)]


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 9, "deciders": {}}', "{}"])
async def test_a_file_that_is_no_state_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(StoreError, match="name another file"):
        async with Solver(config(), models(), state=path):
            pass


async def test_a_state_of_another_kind_starts_from_nothing_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    async with Solver(config(), models(), state=path) as solver:
        (variant,) = solver.variants
    path.write_text(f'{{"version": 1, "deciders": {{"{variant.key}": {{"made": "x"}}}}}}')
    async with Solver(config(), models(), state=path) as solver:
        assert "starts from nothing" in solver.warnings[0]
        assert _state(solver.variants[0])["all"] == [0.0, 0, 0]


async def test_variants_share_the_engines_and_decide_apart() -> None:
    opened = models()
    async with Solver(config(), opened) as solver:
        half = with_overrides(config(), take_over_rate=0.9)
        alone = with_overrides(config(), method="target-only", samples=1)
        await solver.solve(ask("1?", of=half))
        solution = await solver.solve(ask("2?", of=alone))
        assert solution.answer == "5"
        assert [variant.rate for variant in solver.variants] == [0.4, 0.9, None]
        # What changes no decision makes no other decider.
        solver.ask(ask("3?", of=with_overrides(config(), temperature=0.1, seed=7)))
        assert len(solver.variants) == 3


async def test_a_conditional_calibration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    fingerprint = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in config(take_over={"coverage": "conditional"}).calibration_fingerprint().items()
    }
    path.write_text(
        json.dumps(
            {
                "version": 2,
                "fingerprint": fingerprint,
                "coverage": "conditional",
                "scores": {"p": [[0.5]]},
            }
        )
    )
    of = config(take_over={"coverage": "conditional", "calibration": str(path)})
    with pytest.raises(CalibrationError, match="never seen before"):
        async with Solver(of, models()):
            pass


async def test_models_that_are_not_open_are_refused() -> None:
    async with Solver(config(), {"draft": models()["draft"]}) as solver:
        with pytest.raises(ConfigError, match="the target, which is not open"):
            solver.ask(ask())
    async with Solver(config(), models()) as solver:
        with pytest.raises(ConfigError, match="is not open here"):
            solver.ask(ask(of=config(draft={"model": "another"})))


async def test_the_same_question_is_drawn_alike_whatever_its_id() -> None:
    opened = models()
    async with Solver(config(), opened) as solver:
        for name in ("a", "b"):
            problem = Problem(id=name, question="2 + 2?")
            never = config(take_over={"rate": 0.0})
            await solver.solve(Question(problem=problem, config=never, drawn_as="same"))
    draft = opened["draft"].engine
    assert isinstance(draft, FakeEngine)
    seeds = [sampling.seed for _, sampling in draft.generated]
    first, second = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(first)


async def test_an_observer_hears_of_every_turn_and_chain() -> None:
    class Hears:
        def __init__(self) -> None:
            self.turns: list[Turn] = []
            self.chains: list[tuple[str, Chain]] = []

        def turn_done(self, variant: Variant, turn: Turn) -> None:
            assert variant.rate == 0.4
            self.turns.append(turn)

        def chain_done(self, variant: Variant, problem: Problem, chain: Chain) -> None:
            assert variant.rate == 0.4
            self.chains.append((problem.id, chain))

    hears = Hears()
    async with Solver(config(), models(), observer=hears) as solver:
        solution = await solver.solve(ask())
        activity = solver.variants[0].activity
    assert [chain for _, chain in hears.chains] == sorted(solution.chains, key=lambda c: c.done)
    assert len(hears.turns) == sum(len(chain.turns) for chain in solution.chains)
    assert activity.decisions == len(hears.turns)


async def test_a_chain_that_fails_is_heard_of_and_the_others_go_on() -> None:
    def fails(_: str) -> str:
        raise RuntimeError("broken")

    async with Solver(config(), models(draft=fails)) as solver:
        solution = await solver.solve(ask())
    assert solution.answer is None
    assert solution.errors == ["RuntimeError: broken"] * 2


async def test_closing_the_solver_ends_what_is_being_read() -> None:
    solver = await Solver(config(), models(seconds=3600.0)).__aenter__()
    asked = solver.ask(ask())
    async with asked:
        reading = asyncio.create_task(_read(asked))
        await asyncio.sleep(0)
        await solver.__aexit__(None, None, None)
        with pytest.raises(AttsError, match="its solver closed"):
            await reading
    with pytest.raises(AttsError, match="its solver closed"):
        await asked.solution()


async def _read(asked: Asked) -> list[Event]:
    return [event async for event in asked]


async def test_what_does_not_fit_the_models_is_raised_where_it_is_read() -> None:
    def refuses(_: str) -> str:
        raise ConfigError("the template refuses")

    async with Solver(config(), models(draft=refuses)) as solver:
        with pytest.raises(ConfigError, match="the template refuses"):
            await solver.solve(ask())
        with pytest.raises(ConfigError, match="the template refuses"):
            await events_of(solver, ask())
        assert solver.open_chains == 0
    with pytest.raises(ValueError, match="is entered before it is read"):
        await solver.ask(ask()).solution()


async def test_a_marginal_calibration_is_where_the_decider_begins(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "calibration": {"problems": {"count": 4}, "samples": 2},
        "take_over": {"control": "split"},
    }
    await jobs.calibrate(config(**tree), models(), tmp_path)
    named = {"calibration": str(tmp_path / "calibration.json")}
    adaptive = config(take_over={"control": "adaptive", **named})
    async with Solver(adaptive, models()) as solver:
        await solver.solve(ask("1?", of=adaptive))
        # Whatever the temperature, the rate is held.
        await solver.solve(ask("2?", of=with_overrides(adaptive, temperature=0.1)))
        (variant,) = solver.variants
        assert variant.setup.calibration
        with pytest.raises(CalibrationError, match=r"take_over\.rate"):
            solver.ask(ask("3?", of=with_overrides(adaptive, take_over_rate=0.9)))
    split = config(take_over={"control": "split", **named})
    async with Solver(split, models()) as solver:
        await solver.solve(ask("1?", of=split))
        with pytest.raises(CalibrationError, match=r"sampling\.temperature"):
            solver.ask(ask("2?", of=with_overrides(split, temperature=0.1)))


async def test_chains_that_wait_for_each_other_begin_together() -> None:
    ranked = config(method="sync-ranking", samples=3)
    async with Solver(config(), models()) as solver:
        solution = await solver.solve(ask(of=ranked))
        assert {chain.end for chain in solution.chains} <= {"answer", "stop"}
        with pytest.raises(ConfigError, match="wait for each other"):
            solver.ask(ask(of=with_overrides(ranked, samples=5)))


async def test_a_vote_that_is_decided_leaves_the_rest_out() -> None:
    early = config(samples=12, stop={"when": "majority"}, take_over={"rate": 0.0})
    async with Solver(config(limits={"chains": 2, "chains_min": 2}), models()) as solver:
        voted = await solver.solve(ask(of=early))
        every = await solver.solve(ask(of=early, vote=False))
    assert voted.answer == "4"
    assert sum(not chain.is_needed for chain in voted.chains) >= 4
    assert all(chain.is_needed for chain in every.chains)


async def test_programs_are_one_vote_only_where_their_texts_are_one() -> None:
    # As mathematics these would be one, and three of four would decide.
    programs = iter(["f( x)", "f(x)", "$f(x)$", "f(x)"])
    opened = models(draft=lambda _: f"```\n{next(programs)}\n```")
    asked = Problem(id="p", question="f?", tests=ProgramTests(cases=(Case(input="", output="1"),)))
    early = config(
        samples=4,
        stop={"when": "majority"},
        take_over={"rate": 0.0},
        turns={"max_turns": 1, "draft_tokens": 40},
    )
    async with Solver(config(limits={"chains": 1, "chains_min": 1}), opened) as solver:
        solution = await solver.solve(Question(problem=asked, config=early))
    assert [vote.chains for vote in solution.votes] == [(1, 3), (0,), (2,)]
    assert all(chain.is_needed for chain in solution.chains)


async def test_variants_are_bounded() -> None:
    async with Solver(config(), models()) as solver:
        for number in range(MOST + 5):
            solver.ask(ask(of=with_overrides(config(), take_over_rate=number / 100)))
        assert len(solver.variants) == MOST
        assert solver.variants[-1].rate == (MOST + 4) / 100


async def test_two_solvers_do_not_keep_one_state(tmp_path: Path) -> None:
    state = tmp_path / "kept" / "state.json"
    async with Solver(config(), models(), state=state):
        with pytest.raises(StoreError, match="another process keeps"):
            async with Solver(config(), models(), state=state):
                pass
    async with Solver(config(), models(), state=str(state)) as solver:
        assert solver.variants


async def test_pairs_of_answers_are_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(solution, "MOST_KNOWN", 3)
    numbers = iter(range(1000))
    async with Solver(config(), models(draft=lambda _: f"\\boxed{{{next(numbers)}}}")) as solver:
        for number in range(10):
            await solver.solve(ask(f"{number}?", of=config(samples=3, take_over={"rate": 0.0})))
        grader = vars(vars(solver)["_counting"])["grader"]
        assert len(vars(grader)["_known"]) <= 3 + 3


@pytest.mark.parametrize("steps", range(8))
async def test_whenever_a_question_is_left_its_room_is_free_again(steps: int) -> None:
    opened = models(seconds=3600.0)
    async with Solver(config(limits={"chains": 2, "chains_min": 2}), opened) as solver:
        async with solver.ask(ask(of=config(samples=3))):
            for _ in range(steps):
                await asyncio.sleep(0)
        capacity = vars(solver)["_capacity"]
        assert (capacity.taken, solver.open_chains, solver.in_flight) == (0, 0, 0)
        assert not any(vars(model.engine)["in_flight"] for model in opened.values())
