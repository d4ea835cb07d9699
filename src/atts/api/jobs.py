"""What ``atts compare``, ``report``, ``tune``, ``regrade`` and ``simulate`` do, as functions.

Nothing is printed: what is found is returned. Folders and files are named by text or path.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

from atts.analysis import comparison as analysis
from atts.analysis.comparison import Comparison
from atts.analysis.report import read_reports
from atts.analysis.summary import Summary
from atts.analysis.tokens import TokenBudget
from atts.api.loops import outside_of_loops
from atts.api.solve import Configuration, configuration
from atts.config import FORMER_DEFAULTS, Config, load_config
from atts.conformal.risk import Certificate
from atts.errors import AttsError, ConfigError
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.grading.judge import Endpoint, Judge
from atts.methods.chain import Models
from atts.problems import load_problems
from atts.reports.figures import make_figures, save_figures
from atts.reports.html import render_page
from atts.runs import regrade as regrading
from atts.runs import tuning
from atts.runs.candidates import named_runs, parse_candidates, prepare, reference_name, run_missing
from atts.runs.observer import SilentObserver
from atts.runs.regrade import ExtractBy, JudgeBy, Regraded
from atts.runs.setup import open_models
from atts.runs.tuning import Tuning, prepare_tuning
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.fit import read_fit
from atts.simulation.simulate import SimulationOutcome, check
from atts.simulation.simulate import simulate as simulate_run
from atts.simulation.workload import load_workload
from atts.store.grades import LEDGER
from atts.store.run_directory import read_run
from atts.types import Author, Problem

RATES = (0.8, 0.6, 0.4, 0.2)
"""The take-over rates that are tuned over."""
CERTIFIABLE = {"take_over": {"control": "split"}, "stop": {"repeating": False}}
"""What is set there unless the user says otherwise: the defaults of a run cannot be certified."""

SIMULATED = ("target-only", "sync-ranking", "atts")
"""The methods that are simulated."""
OF_A_TRACE = {
    "turns": FORMER_DEFAULTS["turns"],
    "take_over": {"mode": "continue", "score": {"kind": "mean"}},
}
"""A trace does not tell the tokens' surprises: nothing can be cut in it."""

Where = str | Path


def _silent(_name: str) -> SilentObserver:
    return SilentObserver()


async def compare(
    runs: Sequence[Where],
    *,
    config: Where | None = None,
    settings: Sequence[str] = (),
    folder: Where = "runs",
    reference: Where | None = None,
    budget: float | None = None,
    draft_cost: float = 0.1,
    score_cost: float = 1.0,
) -> Comparison:
    """Run several methods over the same problems and seeds, and put them side by side.

    Args:
        runs: ``METHOD``, ``METHOD:key=value,...``, or a run directory, which is taken as it stands.
        config: the YAML file that the methods change; None: the defaults.
        settings: as of ``--set``, for all of them.
        folder: where runs and calibrations are kept, and looked for; what is missing is made.
        reference: which of ``runs`` the others are tested against; None: the first target-only,
            else the first.
        budget: lets each count with as many chains as so many target-equivalent tokens a problem
            pay for.
        draft_cost, score_cost: what a token that the draft writes, or the target scores, costs of
            it.

    Raises:
        ConfigError, ProblemError, CalibrationError, StoreError: an input is wrong.
        GradingError: the runs have nothing in common that could be compared.
        AttsError: a run could not be made; what was made is kept.
    """
    path, place = Path(config) if config else None, Path(folder)
    candidates = parse_candidates(list(map(str, runs)), path, list(settings), place)
    plan = prepare(candidates, place)
    chosen = reference_name(candidates, plan, None if reference is None else str(reference))
    said: list[str] = []
    with Grader(cache=VerdictCache()) as grader:
        if await run_missing(plan, grader, _silent, said.append):
            raise AttsError("\n".join(said))
        named = named_runs(candidates, plan)
        limit = None
        if budget is not None:
            limit = TokenBudget(tokens=budget, draft_cost=draft_cost, score_cost=score_cost)
        return await asyncio.to_thread(analysis.compare, named, chosen, grader, limit)


def report(
    *runs: Where, html: Where | None = None, figures: Where | None = None
) -> dict[str, Summary]:
    """What recorded runs came to, by their names, computed anew from their chains.

    Args:
        runs: run directories.
        html: a file to write: the figures, and the chains to read.
        figures: a folder to write each figure to, as PNG, SVG and CSV.

    Raises:
        ConfigError: no run is named.
        StoreError: there is no run, or one of its files is corrupt; or a file cannot be written.
        GradingError: a run has no chains yet.
    """
    if not runs:
        raise ConfigError("name at least one run directory to report on")
    directories = list(dict.fromkeys(Path(run) for run in runs))
    with Grader(cache=VerdictCache()) as grader:
        reported = read_reports(directories, grader)
    if html or figures:
        made = make_figures(reported)
        if html:
            atomic_write(Path(html), render_page(reported, made))
        if figures:
            save_figures(made, Path(figures))
    return {each.name: each.summary for each in reported}


async def tune(
    config: Configuration | None = None,
    models: Models | None = None,
    directory: Where | None = None,
    *,
    settings: Sequence[str] = (),
    rates: Sequence[float] = RATES,
    loss: float = 0.05,
    confidence: float = 0.9,
) -> tuple[Tuning, Certificate | None]:
    """Find the cheapest take-over rate that loses at most so much accuracy, with a certificate.

    Args:
        config: of the runs; a file and a mapping stand over what can be certified.
        models: the draft and the target, if they are open.
        directory: where to; None: ``runs/tune-DIGEST``.
        settings: as of ``--set``.
        rates: to try; they are tested from the highest down.
        loss: accuracy that may be lost against the target alone.
        confidence: of the certificate.

    Returns:
        What was found; and the certificate, or None where no rate is certified.

    Raises:
        ConfigError, ProblemError: what is to be certified cannot be, or by these problems.
        StoreError, EngineError: see ``run``; chains failed, so losses cannot be counted.
    """
    made = configuration(config, settings, defaults=CERTIFIABLE)
    plan = prepare_tuning(made, rates, loss, confidence)
    place = Path(directory or Path("runs") / f"tune-{made.digest()}")
    authors: tuple[Author, ...] = ("draft", "target")
    opening = open_models(plan.config, authors) if models is None else nullcontext(models)
    async with opening as opened:
        return await tuning.tune(plan, opened, place, rates, loss, confidence, _silent)


async def regrade(
    directory: Where,
    *,
    extract: ExtractBy = "regex",
    judge: JudgeBy = "rules",
    model: str | None = None,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    seconds: float = 5.0,
    problems: Where | Sequence[Problem] | None = None,
    dry_run: bool = False,
) -> Regraded:
    """Find and judge the answers of a run again, from its stored reasoning.

    Args:
        directory: of the run.
        extract: how answers are found: ``regex``, as in the run, or ``llm``.
        judge: whose verdict counts: ``rules``, ``llm``, or ``both``, where the rules come first.
        model: the language model that is asked, at ``base_url`` (None: OpenAI's).
        base_url: an OpenAI-compatible endpoint.
        api_key_env: the environment variable that holds its key, if it asks for one.
        seconds: longest time of the rules for one answer.
        problems: corrected gold answers: problems, or the set or file that has them.
        dry_run: write and send nothing.

    Raises:
        StoreError, ProblemError, GradingError: the run or the problems cannot be taken.
        ConfigError: no model is named, or the endpoint refuses.
    """
    place = Path(directory)
    if isinstance(problems, str | Path):
        problems = corrected_problems(place, str(problems))
    async with AsyncExitStack() as stack:
        helper = None
        if extract == "llm" or judge != "rules":
            if not model:
                raise ConfigError("name the model to ask: model=...")
            endpoint = Endpoint(model, base_url, os.environ.get(api_key_env))
            helper = await stack.enter_async_context(Judge(endpoint, place / LEDGER, dry_run))
        grader = stack.enter_context(Grader(seconds, cache=VerdictCache()))
        return await regrading.regrade(
            place, extract, judge, helper, grader, dry_run, problems=problems
        )


def corrected_problems(run: Path, source: str) -> list[Problem]:
    """The problems of a source, as the run's configuration would load them, but all of them."""
    recorded = read_run(run)
    count = len(recorded.problems) if source == "arithmetic" else None
    options = recorded.config.problems.model_copy(update={"source": source, "count": count})
    return load_problems(options)


def simulate(
    workload: Where,
    methods: Sequence[str] = SIMULATED,
    *,
    config: Where | None = None,
    settings: Sequence[str] = (),
    chains: int = 64,
    problems: int | None = None,
    gpu: str = "h200",
    draft_gpus: int = 1,
    target_gpus: int = 1,
    shared: bool = False,
    mixed: bool = False,
    fitted: Where | None = None,
    target_only_ratio: float = 1.0,
    model_cuts: bool = False,
    acceptance: float = 0.7,
) -> list[SimulationOutcome]:
    """How long methods would take on given hardware: the same code, in virtual time.

    Args:
        workload: the recorded chains that are followed: a run directory, or a trace.
        methods: ``METHOD``, ``METHOD:key=value,...``, or ``reference``.
        config: a YAML file; None: that of the run that is followed, else the defaults.
        settings: as of ``--set``.
        chains: in flight.
        problems: how many, from the first recorded; None: all.
        gpu: h200, h100, a100, a100-40gb, b200, l40s or cpu.
        draft_gpus, target_gpus: how many each model has, and one that is alone all of them;
            ``shared``: the same ones.
        mixed: prefill and decoding share steps, as in vLLM.
        fitted: the file of efficiencies that ``atts simulate --fit`` wrote.
        target_only_ratio: tokens of a chain that the target writes alone, as a multiple of those
            that were recorded.
        model_cuts: let ``rewind`` cut at places that are drawn, where they were not recorded.
        acceptance: where ``server.speculative`` says that a model decodes speculatively: the
            probability that a proposed token is kept, if those before it are.

    Raises:
        ConfigError, StoreError: an input is wrong.
        AttsError: simulated chains failed.
    """
    found = simulated_config(Path(config) if config else None, settings, Path(workload))
    recorded = load_workload(Path(workload), model_cuts)
    gpus = (draft_gpus, target_gpus)
    place = Path(fitted) if fitted else None
    hardware = simulated_hardware(gpu, gpus, (None, None), shared, mixed, place, acceptance)

    def one(name: str) -> SimulationOutcome:
        contender = SimulatedMethod.parse(name)
        outcome = simulate_run(
            contender,
            found,
            recorded,
            hardware.for_run(contender.config(found, chains)),
            chains,
            problems or len(recorded.problems),
            target_only_ratio,
        )
        check(outcome)
        return outcome

    return outside_of_loops(lambda: [one(name) for name in methods])


def simulated_hardware(
    gpu: str,
    gpus: tuple[int, int],
    caches: tuple[int | None, int | None],
    shared: bool,
    mixed: bool,
    fitted: Path | None,
    acceptance: float,
) -> Hardware:
    """The hardware of a draft and a target; ``caches`` in tokens, None: what fits."""
    models = []
    efficiencies = read_fit(fitted) if fitted else {}
    for author, count, cache in zip(("draft", "target"), gpus, caches, strict=True):
        options: dict[str, object] = {
            "gpus": count,
            "cache_tokens": cache,
            "acceptance": acceptance,
        }
        if author in efficiencies:
            options["efficiency"] = efficiencies[author]
        models.append(ModelHardware.model_validate(options))
    return Hardware(gpu=gpu, draft=models[0], target=models[1], shared=shared, mixed=mixed)


def simulated_config(config: Path | None, settings: Sequence[str] | None, workload: Path) -> Config:
    """The configuration given, or that of the run that is followed."""
    if config is None and (workload / "config.yaml").is_file():
        config = workload / "config.yaml"
    return load_config(config, list(settings or ()), None if workload.is_dir() else OF_A_TRACE)


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether an answer is the gold answer, by the rules that grade a run; None: it cannot be told.

    >>> same_answer("1/2", "0.5"), same_answer("12", "13")
    (True, False)
    """
    with Grader(workers=1, cache=VerdictCache()) as grader:
        return grader.compare([(gold, answer)])[gold, answer]
