"""Whether a configuration and its problems are those of a run that is there, or add to it."""

from collections.abc import Sequence
from pathlib import Path

from atts import registry
from atts.config import Config, differing_keys
from atts.errors import ConfigError
from atts.types import Problem

ADVICE = "choose another --out, or go back to what the run was started with"

Run = tuple[Config, Sequence[Problem]]


def check_same_run(directory: Path, theirs: Run, ours: Run, may_grow: bool = True) -> bool:
    """Whether ours adds samples or problems to theirs; all that would change a finished chain is
    refused.

    Args:
        directory: of the run, for messages.
        theirs: configuration and problems that the directory holds.
        ours: those that it is to go on with.
        may_grow: whether anything may be added.

    Raises:
        ConfigError: it is another run; the keys or problems that differ are named.
    """
    grows = may_grow and _adds_problems(theirs[1], ours[1])
    keys = differing_keys(ours[0].what_results_depend_on(), theirs[0].what_results_depend_on())
    added = {"problems.count"} if grows or _same(theirs[1], ours[1]) else set()
    reason = _fixed_samples(ours[0])
    if may_grow and ours[0].samples > theirs[0].samples and not reason:
        added.add("samples")
    if others := [key for key in keys if key not in added]:
        there, now = (run[0].what_results_depend_on() for run in (theirs, ours))
        lines = [f"\n  {key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in others]
        why = f"\n{reason}" if "samples" in others and reason else ""
        raise ConfigError(
            f"{directory} holds a run of another configuration:{''.join(lines)}{why}\n{ADVICE}"
        )
    if not grows and not _same(theirs[1], ours[1]):
        before, after = ({problem.id: problem for problem in run[1]} for run in (theirs, ours))
        changed = [key for key in before | after if before.get(key) != after.get(key)]
        raise ConfigError(
            f"{directory} holds a run of other problems: {len(changed)} differ, the first is "
            f"{changed[0]!r}; {ADVICE}. A gold answer that was corrected is taken by atts regrade "
            "--problems"
        )
    return bool(keys) or grows


def _same(theirs: Sequence[Problem], ours: Sequence[Problem]) -> bool:
    return {problem.id: problem for problem in theirs} == {problem.id: problem for problem in ours}


def _adds_problems(theirs: Sequence[Problem], ours: Sequence[Problem]) -> bool:
    now = {problem.id: problem for problem in ours}
    return len(now) > len(theirs) and all(now.get(each.id) == each for each in theirs)


def _fixed_samples(config: Config) -> str | None:
    """Why more samples would change chains that are finished, if they would."""
    if registry.METHODS.found[config.method].together:
        return f"with method={config.method} a problem's chains are compared with each other"
    if config.stop.when != "never":
        return f"with stop.when={config.stop.when} chains were left out because of their number"
    return None
