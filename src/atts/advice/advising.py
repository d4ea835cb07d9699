"""``atts advise``: from a configuration, or from runs, to what to take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from atts.advice.advice import ADVICE, Advice, Advised, Asked, advise, advise_relatively
from atts.advice.pilot import Found, Pilot, findings, fly, prepare_pilot, segments_of
from atts.advice.probe import Texts, probe
from atts.analysis.comparison import NamedRun
from atts.config import IN_THIS_PROCESS, Config, apply_setting, parse_config
from atts.errors import ConfigError, StoreError
from atts.files import atomic_write, read_plain
from atts.grading.grader import Grader
from atts.methods.chain import Models
from atts.runs.observer import Observe
from atts.runs.setup import open_models
from atts.types import Author

WARMING = (1, 16, 64)
"""Numbers in flight before anything is timed: servers compile kernels on their first requests."""
WARMING_SEGMENTS = (16, 48)
AUTHORS: tuple[Author, ...] = ("draft", "target")


class AdvicePlan(NamedTuple):
    """Advice whose inputs are known to be good."""

    config: Config
    pilot: Pilot
    levels: Sequence[int]
    bound: float
    seconds: float
    """About the most for the probe."""

    @property
    def chains(self) -> int:
        """Of the run that is planned, of as many problems as are set, else of a hundred."""
        return (self.config.problems.count or 100) * self.config.samples


def prepare_advice(
    config: Config,
    ways: Sequence[str],
    directory: Path,
    problems: int,
    samples: int,
    levels: Sequence[int],
    bound: float,
    seconds: float,
) -> AdvicePlan:
    """Check everything that advice needs, before any model is loaded.

    Raises:
        ConfigError, ProblemError: a number is wrong, or see ``prepare_pilot``.
    """
    if not levels or min(levels) < 1:
        raise ConfigError("the numbers in flight to predict must be 1 or more")
    check_bound(bound)
    pilot = prepare_pilot(config, ways, directory, problems, samples)
    return AdvicePlan(config, pilot, sorted({*levels}), bound, seconds)


def check_bound(bound: float) -> None:
    """Refuse what is no accuracy to lose.

    Raises:
        ConfigError: it is none.
    """
    if not 0.0 <= bound < 1.0:
        raise ConfigError("the accuracy that may be lost must lie in [0, 1)")


async def measure(
    plan: AdvicePlan, grader: Grader, observe: Observe, say: Callable[[str], None]
) -> Advice:
    """Make the pilot's runs, probe the engines, and advise; all is kept in the pilot's directory.

    Raises:
        EngineError: an engine could not serve a request, or a run of the pilot could not be made.
        ConfigError, StoreError: see ``atts.runs.jobs.run``.
    """
    most = max(plan.levels)
    limits = plan.config.limits.model_copy(
        update=dict.fromkeys(("draft_requests", "target_requests"), max(most, 64))
    )
    probed = plan.config.model_copy(update={"method": "atts", "limits": limits})
    remote = not {plan.config.draft.engine, plan.config.target.engine} <= IN_THIS_PROCESS
    questions = "\n".join(problem.question for problem in plan.pilot.problems)
    if remote:
        say("Warming the servers")
        async with open_models(probed, AUTHORS) as models:
            texts = _texts(models, questions, round(_prompt(models, plan)))
            await probe(models, texts, WARMING_SEGMENTS, WARMING, plan.seconds)
    found, problems = findings(await fly(plan.pilot, grader, observe, say), grader)
    async with open_models(probed, AUTHORS) as models:
        prompt = _prompt(models, plan)
        written = "\n".join(one.text for some in found[0].chains for one in some)
        texts = _texts(models, f"{questions}\n{written}", round(prompt + _middle(found)))
        prices = await probe(
            models,
            texts,
            segments_of(found),
            plan.levels,
            plan.seconds,
            remote,
            lambda what: say(f"Probing the engines: {what}"),
        )
    levels = plan.levels[: len(prices.levels)]  # of those asked for, the first are probed
    advice = advise(found, problems, prices, Asked(levels, plan.chains, plan.bound, prompt))
    if left_out := not_probed(advice, plan.levels):
        say(
            f"Not predicted: {', '.join(map(str, left_out))} in flight, which did not fit "
            f"{plan.seconds:g} s of probing: give more with --seconds"
        )
    write_advice(plan.pilot.directory / ADVICE, advice)
    return advice


def _texts(models: Models, text: str, length: int) -> Callable[[Author, int], Texts]:
    def made(author: Author, ahead: int) -> Texts:
        return Texts(models[author].tokenizer.encode(text), max(8, length), ahead)

    return made


def _prompt(models: Models, plan: AdvicePlan) -> float:
    """Tokens of a prompt, in the mean."""
    tokenizer, problems = models["target"].tokenizer, plan.pilot.problems
    prompts = [tokenizer.prompt(problem, plan.config.prompt) for problem in problems]
    return sum(map(len, prompts)) / len(prompts)


def _middle(found: Sequence[Found]) -> float:
    """Tokens of a chain that is open at some moment, in the mean: long ones are open for longer."""
    kept = [one.kept("target") for some in found[0].chains for one in some]
    return sum(each * each for each in kept) / max(1, 2 * sum(kept))


def advise_on_runs(
    runs: Sequence[NamedRun],
    grader: Grader,
    bound: float,
    costs: tuple[float, float] | None = None,
    before: Advice | None = None,
    levels: Sequence[int] = (),
    chains: int | None = None,
) -> Advice:
    """What recorded runs say, without any server.

    Args:
        runs: one of them of the target alone.
        grader: compares the answers.
        bound: most accuracy of a chain that may be lost.
        costs: d and s that are taken for granted.
        before: advice whose prices hold; None: the runs' own times.
        levels: numbers in flight that are predicted by them, none beyond the last that was probed;
            without any: those that were.
        chains: of the run that is planned; None: as many as the largest of the runs has.

    Raises:
        ConfigError: none is of the target alone.
        GradingError: they have no problem in common.
    """
    found, problems = findings(runs, grader)
    if costs is None and before is not None and before.prices is not None:
        chains = chains or max(sum(map(len, each.chains)) for each in found)
        prompt = max(0.0, before.context - before.ways[0].chain_tokens)
        probed = [level.in_flight for level in before.prices.levels]
        known = [level for level in levels or probed if level <= probed[-1]] or probed[-1:]
        asked = Asked(known, chains, bound, prompt)
        return advise(found, problems, before.prices, asked)
    return advise_relatively(found, problems, bound, costs)


def not_probed(advice: Advice, levels: Sequence[int]) -> list[int]:
    """Numbers in flight beyond those of the prices."""
    if advice.prices is None:
        return []
    return [level for level in levels if level > advice.prices.levels[-1].in_flight]


def read_advice(path: Path) -> Advice:
    """Advice that was written.

    Raises:
        StoreError: it cannot be read, or is no such file.
    """
    try:
        return Advice.model_validate_json(read_plain(path))
    except OSError as error:
        raise StoreError(f"cannot read the advice {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is no advice of atts advise: {error}") from error


def write_advice(path: Path, advice: Advice) -> None:
    """Keep it."""
    atomic_write(path, advice.model_dump_json(indent=2) + "\n")


def recommended(config: Config, advice: Advice, auto: bool = False) -> Config:
    """The configuration with what was chosen: the way, and the number in flight; with ``auto``, the
    method that begins so and goes on measuring.
    """
    tree = config.model_dump()
    settings = advice.choice.settings if advice.choice else ("method=target-only",)
    for setting in settings:
        apply_setting(tree, setting)
    if auto and tree["method"] == "atts":
        chosen = next(
            way for way in advice.ways if advice.choice and way.name == advice.choice.name
        )
        tree["method"] = "auto"
        tree["auto"] = foretold(advice, chosen)
    if advice.in_flight is not None:
        tree["limits"]["chains"] = advice.in_flight
        for name in ("draft_requests", "target_requests"):
            tree["limits"][name] = max(tree["limits"][name], advice.in_flight)
    return parse_config(tree, "what is recommended")


def foretold(advice: Advice, way: Advised) -> dict[str, dict[int, float]]:
    """What ``method=auto`` is told of a way: the speedup by chains in flight, and the target's own
    speed.
    """
    alone = advice.ways[0].predictions
    return {
        "advised": {one.in_flight: one.speedup.estimate for one in way.predictions},
        "alone": {one.in_flight: one.tokens_per_second.estimate for one in alone},
    }
