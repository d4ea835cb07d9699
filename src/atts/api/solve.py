"""``atts.solve`` and ``atts.asolve``: questions in, answers out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast, overload

from atts.api.loops import run_anywhere
from atts.api.progress import showing
from atts.config import Config, apply_setting, load_config, parse_config
from atts.errors import AttsError, ConfigError, ProblemError
from atts.methods import authors_of
from atts.methods.chain import Models
from atts.solving.listening import ChainDone
from atts.solving.question import Question, as_problem, with_overrides
from atts.solving.solution import Solution
from atts.solving.solver import Solver
from atts.types import Message, Problem

Messages = Sequence[Message | Mapping[str, str]]
One = str | Problem | Messages
Many = Sequence[Problem]
Model = str | Path | Mapping[str, Any]
"""A name or folder of a model, or the keys of ``draft`` or ``target`` in a configuration."""
Configuration = Config | Mapping[str, Any] | str | Path
"""A configuration, its keys, or the file that has them."""


class SolveOptions(TypedDict, total=False):
    """The options of ``asolve``, which explains them."""

    models: Models | Solver | None
    draft: Model | None
    target: Model | None
    config: Configuration | None
    settings: Sequence[str]
    samples: int | None
    method: str | None
    take_over_rate: float | None
    temperature: float | None
    top_p: float | None
    stop: Sequence[str] | None
    seed: int | None
    max_tokens: int | None
    progress: bool | None


@overload
async def asolve(
    question: str | Problem | Messages, **options: Unpack[SolveOptions]
) -> Solution: ...
@overload
async def asolve(
    question: Sequence[Problem], **options: Unpack[SolveOptions]
) -> list[Solution]: ...
async def asolve(
    question: One | Many,
    *,
    models: Models | Solver | None = None,
    draft: Model | None = None,
    target: Model | None = None,
    config: Configuration | None = None,
    settings: Sequence[str] = (),
    samples: int | None = None,
    method: str | None = None,
    take_over_rate: float | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    progress: bool | None = None,
) -> Solution | list[Solution]:
    """Solve a question, and vote.

    Args:
        question: a text, the messages of a conversation, a problem, or a list of problems, for
            which a list comes back. Gold answers are not looked at.
        models: models that are open (``open_models``), or a ``Solver``, whose deciders live on.
        draft, target: models by name or folder, in place of those of ``config``.
        config: a configuration, its keys as a mapping, or a YAML file; None: the defaults, with the
            two small models that come with atts.
        settings: as of ``--set``, over ``config``.
        samples, method, take_over_rate, temperature, top_p, stop, seed: keys of the configuration
            by themselves; None: as it says.
        max_tokens: most tokens of each chain.
        progress: whether to show some on standard error, or in the notebook; None: where somebody
            can see it.

    Raises:
        ConfigError, CalibrationError: the configuration, or what is asked of it, is wrong.
        ProblemError: the question is empty, or two problems have one id.
        EngineError: a model's server does not answer. What goes wrong with a single chain is in
            ``Solution.errors`` instead.
    """
    asked = [question] if _is_one(question) else list(cast("Many", question))
    problems = [as_problem(cast("One", each)) for each in asked]
    if not problems:
        raise ProblemError("there is no question: the list is empty")
    counts = Counter(problem.id for problem in problems)
    twice = [problem_id for problem_id, count in counts.items() if count > 1]
    if twice:
        raise ProblemError(
            f"problems with one id: {', '.join(sorted(twice)[:3])}; give each its own"
        )
    if models is not None and (draft or target):
        raise ConfigError("models are open already: leave out draft and target, or models")
    if isinstance(models, Solver) and config is None and not settings:
        base = models.config
    else:
        base = configuration(config, settings, draft, target)
    base = with_overrides(
        base,
        samples=samples,
        method=method,
        take_over_rate=take_over_rate,
        temperature=temperature,
        top_p=top_p,
        stop=stop,
        seed=seed,
    )
    if models is None:
        refuse_half_a_pair(base, draft is not None, target is not None)
    async with _solver(base, models) as solver:
        questions = [
            Question(problem=problem, config=base, max_tokens=max_tokens) for problem in problems
        ]
        with showing(progress, len(questions) * base.samples) as count:
            solutions = await _all(solver, questions, count)
    return solutions[0] if _is_one(question) else solutions


@overload
def solve(question: One, **options: Unpack[SolveOptions]) -> Solution: ...
@overload
def solve(question: Many, **options: Unpack[SolveOptions]) -> list[Solution]: ...
def solve(question: One | Many, **options: Unpack[SolveOptions]) -> Solution | list[Solution]:
    """The same from anywhere, a notebook's running event loop too; options are those of ``asolve``.

    Raises:
        ConfigError: models that are open belong to their event loop; and see ``asolve``.
    """
    if options.get("models") is not None:
        raise ConfigError(
            "models that are open belong to the event loop that opened them: await "
            "atts.asolve(...) there, or name them by draft=, target= or config="
        )
    solving: Coroutine[Any, Any, Solution | list[Solution]]
    solving = asolve(cast("Any", question), **options)
    return run_anywhere(solving)


solve.__signature__ = signature(asolve)  # type: ignore[attr-defined]  # what a notebook shows


def _is_one(question: object) -> bool:
    """Whether it is one question, and no list of problems.

    >>> _is_one("?"), _is_one([{"role": "user", "content": "?"}]), _is_one([])
    (True, True, False)
    """
    if isinstance(question, str | Problem):
        return True
    if not isinstance(question, Sequence):
        raise ProblemError(
            f"a {type(question).__name__} is no question: give a text, messages, a Problem, or a "
            "list of Problems"
        )
    return bool(question) and isinstance(question[0], Message | Mapping)


def configuration(
    config: Configuration | None,
    settings: Sequence[str] = (),
    draft: Model | None = None,
    target: Model | None = None,
    defaults: dict[str, Any] | None = None,
) -> Config:
    """The configuration that a call names, with its settings and models over it.

    ``defaults`` stand below a file or a mapping, as of ``load_config``.

    Raises:
        ConfigError: it cannot be read, or a key or value is wrong.
    """
    if isinstance(config, Config | Mapping):
        tree = {} if isinstance(config, Config) else deepcopy(dict(config))
        for setting in settings:
            apply_setting(tree, setting)
        below = config.model_dump() if isinstance(config, Config) else defaults
        base = parse_config(tree, "config", below)
    else:
        base = load_config(config, list(settings), defaults)
    found = {name: _model(model) for name, model in (("draft", draft), ("target", target)) if model}
    return parse_config(found, "draft and target", base.model_dump()) if found else base


def _model(model: Model) -> dict[str, Any]:
    return dict(model) if isinstance(model, Mapping) else {"model": str(model)}


def refuse_half_a_pair(config: Config, draft: bool, target: bool) -> None:
    """Refuse a pair of which one model was named and the other is one of those that come with atts.

    Raises:
        ConfigError: it is such a pair, and the method needs both.
    """
    if len(authors_of(config)) < 2 or draft == target:
        return
    named, other = ("draft", "target") if draft else ("target", "draft")
    if getattr(config, other).model.startswith("bundled/"):
        raise ConfigError(
            f"method={config.method} needs a draft and a target, and only a {named} is named: name "
            f"the {other} too, or take method='{named}-only'"
        )


@asynccontextmanager
async def _solver(config: Config, models: Models | Solver | None) -> AsyncIterator[Solver]:
    if isinstance(models, Solver):
        yield models
        return
    async with Solver(config, models) as solver:
        yield solver


async def _all(
    solver: Solver, questions: Sequence[Question], count: Callable[[], None]
) -> list[Solution]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one(solver, each, count)) for each in questions]
    except* AttsError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _one(solver: Solver, question: Question, count: Callable[[], None]) -> Solution:
    async with solver.ask(question) as asked:
        async for event in asked:
            if isinstance(event, ChainDone):
                count()
        return await asked.solution()
