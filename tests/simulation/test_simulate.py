"""Whole runs in virtual time."""

import pytest

from atts.config import Config, SpeculativeOptions
from atts.errors import ConfigError
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.simulate import SimulationOutcome, simulate
from atts.simulation.workload import FollowedTurn, Workload
from atts.types import Chain

METHODS = ["target-only", "draft-only", "sync-ranking", "atts", "reference"]


def run(
    name: str,
    config: Config,
    workload: Workload,
    hardware: Hardware | None = None,
    in_flight: int = 8,
    problems: int = 6,
    ratio: float = 1.0,
) -> tuple[SimulationOutcome, list[Chain]]:
    chains: list[Chain] = []
    outcome = simulate(
        SimulatedMethod.parse(name),
        config,
        workload,
        hardware or Hardware(),
        in_flight,
        problems,
        ratio,
        chains.append,
    )
    return outcome, chains


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_every_chain_where_it_was_recorded(
    name: str, workload: Workload, pair: Config
) -> None:
    outcome, chains = run(name, pair, workload)
    assert outcome.chains == len({chain.key for chain in chains}) == 24
    assert outcome.failed == 0
    for chain in chains:
        recorded = workload.problems[int(chain.problem_id[1])].chains[chain.sample]
        assert chain.answer == recorded.answer
        assert chain.end == ("stop" if recorded.answer is None else "answer")
        if name.endswith("only"):
            assert sum(s.tokens for t in chain.turns for s in t.segments) == recorded.tokens
            continue
        assert len(chain.turns) == len(recorded.turns)
        for turn, one in zip(chain.turns, recorded.turns, strict=True):
            assert turn.segments[0].tokens == one.draft_tokens
            assert turn.decision
            assert turn.decision.score == pytest.approx(one.score)
            took_over = len(turn.segments) == 2
            assert took_over == turn.decision.take_over
            if took_over and one.target_tokens is not None:
                assert turn.segments[1].tokens == one.target_tokens


def surprised(workload: Workload) -> Workload:
    """The same chains, each of whose draft segments has one token that surprises."""

    def surprises(turn: FollowedTurn) -> tuple[float, ...]:
        assert turn.score is not None
        found = [0.1] * turn.draft_tokens
        found[turn.draft_tokens // 3] = 5.0 + turn.score
        return tuple(found)

    return Workload(
        "surprised",
        [
            problem._replace(
                chains=tuple(
                    chain._replace(
                        turns=tuple(
                            turn._replace(
                                surprises=surprises(turn),
                                scores={"largest-surprise": max(surprises(turn))},
                            )
                            for turn in chain.turns
                        )
                    )
                    for chain in problem.chains
                )
            )
            for problem in workload.problems
        ],
    )


@pytest.mark.parametrize("name", ["atts", "sync-ranking"])
def test_rewinding_cuts_where_the_target_was_surprised(
    name: str, workload: Workload, pair: Config
) -> None:
    settings = "take_over.mode=rewind,take_over.score.kind=largest-surprise"
    outcome, chains = run(f"{name}:{settings}", pair, surprised(workload))
    assert outcome.failed == 0
    cut = kept = 0
    for chain in chains:
        recorded = workload.problems[int(chain.problem_id[1])].chains[chain.sample]
        assert chain.answer == recorded.answer
        assert len(chain.turns) == len(recorded.turns)
        for turn, one in zip(chain.turns, recorded.turns, strict=True):
            draft = turn.segments[0]
            assert turn.decision
            assert draft.tokens == one.draft_tokens
            if turn.decision.take_over:
                assert draft.kept_tokens == one.draft_tokens // 3
                cut += 1
            else:
                assert draft.kept_tokens == draft.tokens
                kept += 1
    assert cut
    assert kept


@pytest.mark.parametrize("name", ["sync-ranking", "atts"])
def test_a_run_repeats_exactly(name: str, workload: Workload, pair: Config) -> None:
    first, second = (run(name, pair, workload) for _ in range(2))
    assert first == second


def test_writing_ahead_changes_the_time_and_no_decision(workload: Workload, pair: Config) -> None:
    (ahead, chains), (after, others) = (
        run(f"atts:limits.overlap={way}", pair, workload) for way in ("on", "off")
    )

    def decisions(made: list[Chain]) -> list[object]:
        return [
            (c.key, [(t.decision.p_value, t.decision.take_over) for t in c.turns if t.decision])
            for c in sorted(made, key=lambda c: c.key)
        ]

    assert decisions(chains) == decisions(others)
    assert ahead.vain_tokens > 0
    assert after.vain_tokens == 0
    assert ahead.wall_seconds != after.wall_seconds


def test_replaced_segments_do_not_confuse_the_places(workload: Workload, pair: Config) -> None:
    outcome, chains = run("atts:take_over.mode=replace", pair, workload)
    assert outcome.failed == 0
    assert any(not s.kept for c in chains for t in c.turns for s in t.segments)


@pytest.mark.parametrize("name", METHODS)
def test_more_gpus_are_not_slower(name: str, workload: Workload, pair: Config) -> None:
    walls = [
        run(
            name,
            pair,
            workload,
            Hardware(draft=ModelHardware(gpus=gpus), target=ModelHardware(gpus=gpus)),
            in_flight=24,
        )[0].wall_seconds
        for gpus in (1, 2, 4)
    ]
    # Not exactly: chains meet others than before, and a decision may fall otherwise.
    assert walls[1] <= 1.02 * walls[0]
    assert walls[2] <= 1.02 * walls[1]


def test_one_chain_at_a_time_takes_the_sum_of_all(workload: Workload, pair: Config) -> None:
    outcome, chains = run("target-only", pair, workload, in_flight=1, problems=2)
    assert outcome.wall_seconds == pytest.approx(sum(c.done - c.started for c in chains))
    assert outcome.target
    assert outcome.target.peak_running == 1


def test_chains_in_flight_may_follow_the_load(workload: Workload, pair: Config) -> None:
    small = Hardware(target=ModelHardware(cache_tokens=4_000))
    fixed, _ = run("atts", pair, workload, small, in_flight=24, problems=12)
    follows, _ = run("atts:limits.chains_min=2", pair, workload, small, in_flight=24, problems=12)
    assert fixed.failed == follows.failed == 0
    assert fixed.target
    assert follows.target
    # Fewer at a time, so that more of a chain is still in the cache when it comes back.
    assert follows.chain_seconds < fixed.chain_seconds
    assert follows.target.cached > fixed.target.cached


def test_sharing_a_gpu_is_slower_than_two(workload: Workload, pair: Config) -> None:
    own, _ = run("atts", pair, workload)
    shared, _ = run("atts", pair, workload, Hardware(shared=True))
    assert own.wall_seconds < shared.wall_seconds < 2.5 * own.wall_seconds


def test_a_copy_over_all_gpus_waits_for_whoever_works_on_one_of_them(
    workload: Workload, pair: Config
) -> None:
    def on_two(*, shared: bool) -> SimulationOutcome:
        target = ModelHardware(gpus=2, tensor_parallel=2)
        hardware = Hardware(shared=shared, draft=ModelHardware(gpus=2), target=target)
        return run("atts", pair, workload, hardware)[0]

    assert on_two(shared=False).wall_seconds < on_two(shared=True).wall_seconds
    assert on_two(shared=True).draft
    # With all copies of the draft at work, each GPU has two servers and no more.
    assert on_two(shared=True).wall_seconds < 2.2 * on_two(shared=False).wall_seconds


def test_speculative_decoding_is_faster_where_little_is_in_flight(
    workload: Workload, pair: Config
) -> None:
    def speculating(acceptance: float) -> Hardware:
        how = SpeculativeOptions(method="draft", draft="Qwen3-0.6B")
        return Hardware(target=ModelHardware(speculative=how, acceptance=acceptance))

    for name in ("target-only", "atts"):
        plain, _ = run(name, pair, workload, in_flight=2)
        good, _ = run(name, pair, workload, speculating(0.9), in_flight=2)
        bad, _ = run(name, pair, workload, speculating(0.0), in_flight=2)
        assert good.target_tokens == bad.target_tokens == plain.target_tokens
        assert good.wall_seconds < plain.wall_seconds < bad.wall_seconds
        assert plain.target
        assert good.target
        assert good.target.cache_tokens < plain.target.cache_tokens


def test_servers_are_as_the_configuration_starts_them(pair: Config, workload: Workload) -> None:
    def of(name: str, hardware: Hardware | None = None) -> Hardware:
        config = SimulatedMethod.parse(name).config(pair, 8)
        return (hardware or Hardware(target=ModelHardware(gpus=4))).for_run(config)

    assert of("atts").target.gpus == 4
    assert of("atts:target.server.speculative.method=off").target.speculative.method == "off"
    # One model alone has all of the GPUs, unless both models are on all of them anyway.
    assert of("target-only").target.gpus == of("draft-only").draft.gpus == 5
    both = Hardware(shared=True, draft=ModelHardware(gpus=4), target=ModelHardware(gpus=4))
    assert of("target-only", both).target.gpus == 4
    rival = (
        "target-only:target.server.speculative.method=ngram,target.server.speculative.tokens=3,"
        "target.server.tensor_parallel=4"
    )
    assert of(rival).target.speculative.tokens == 3
    assert of(rival).target.tensor_parallel == 4
    fast, _ = run(rival, pair, workload, of(rival))
    plain = "target-only:target.server.tensor_parallel=4"
    assert fast.wall_seconds < run(plain, pair, workload, of(plain))[0].wall_seconds
    head = "target-only:target.server.speculative.method=eagle3,target.server.speculative.draft=x"
    assert run(head, pair, workload, of(head))[0].failed == 0


def test_eight_bits_make_room_and_time(workload: Workload, pair: Config) -> None:
    plain, _ = run("target-only", pair, workload)
    narrow = Hardware(target=ModelHardware(weights="fp8", cache="fp8"))
    eight, _ = run("target-only", pair, workload, narrow)
    assert eight.wall_seconds < 0.7 * plain.wall_seconds
    assert plain.target
    assert eight.target
    assert eight.target.cache_tokens > 2 * plain.target.cache_tokens
    said = "target-only:target.server.quantization=fp8,target.server.cache_dtype=fp8_e4m3"
    config = SimulatedMethod.parse(said).config(pair, 8)
    assert Hardware().for_run(config) == narrow.for_run(config)
    # What the command line said stays where the configuration says nothing.
    assert narrow.for_run(pair).target.weights == "fp8"


def test_longer_chains_of_the_target_take_longer(workload: Workload, pair: Config) -> None:
    once, _ = run("target-only", pair, workload)
    thrice, _ = run("target-only", pair, workload, ratio=3.0)
    assert thrice.target_tokens == pytest.approx(3 * once.target_tokens, rel=0.01)
    assert 2 * once.wall_seconds < thrice.wall_seconds < 4 * once.wall_seconds


@pytest.mark.parametrize(
    ("name", "hardware", "message"),
    [
        ("sync-ranking", Hardware(), "at least as many must be in flight"),
        ("atts", Hardware(gpu="abacus"), "choose from h200"),
        ("atts", Hardware(gpu="l40s"), "66 GB of weights do not fit"),
        ("atts", Hardware(target=ModelHardware(gpus=1, tensor_parallel=2)), "a copy of 2"),
        ("atts:take_over.score.kind=unlikely-share", Hardware(), "take mean"),
        ("atts:take_over.score.kind=ratio", Hardware(), "ratio cannot be simulated"),
        ("atts:take_over.mode=rewind", Hardware(), "where the target was surprised"),
        ("atts:turns.draft_tokens_min=9", Hardware(), "draft_tokens_min, .* cannot be simulated"),
        ("atts:turns.opening=target", Hardware(), "opening cannot be simulated"),
        ("atts:turns.draft_segments=2", Hardware(), "draft_segments and .* cannot be simulated"),
        ("atts:take_over.gate.share=0.2", Hardware(), "take_over.gate cannot be simulated"),
        ("atts:take_over.rte=0.1", Hardware(), "did you mean take_over.rate"),
        ("best-guess", Hardware(), "'best-guess' cannot follow recorded turns"),
        ("atts:overlap", Hardware(), "is not key=value"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    name: str, hardware: Hardware, message: str, workload: Workload, pair: Config
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(name, pair, workload, hardware, in_flight=2)
