"""As many chains in flight as this process may open connections for."""

import contextlib

import psutil

from atts.config import Config
from atts.methods import authors_of

CONNECTIONS = 2
"""Of a request to a server: its own, and one to abort it, or for a score that takes two."""
RESERVE = 64
"""Open files for all else: graders, records, what is read meanwhile; of few files, a quarter."""


def fitted(config: Config) -> tuple[Config, str | None]:
    """The configuration with no more chains in flight than open files allow; a word if that is
    fewer.

    The limit of this process is raised first, as far as needed and allowed.
    """
    options = {"draft": config.draft, "target": config.target}
    limits = config.limits
    requests = {"draft": limits.draft_requests, "target": limits.target_requests}
    served = [each for each in authors_of(config) if options[each].engine != "inprocess"]
    if not served:
        return config, None
    connections = CONNECTIONS * sum(min(limits.chains, requests[each]) for each in served)
    with contextlib.suppress(ImportError):  # Windows has no such limit
        used = psutil.Process().num_fds()
        needed = used + RESERVE + connections
        allowed = allow_open_files(needed)
        left = allowed - used - min(RESERVE, allowed // 4)
        chains = max(1, left // (CONNECTIONS * len(served)))
        if allowed < needed and chains < limits.chains:
            fewer = limits.model_copy(update={"chains": chains})
            return config.model_copy(update={"limits": fewer}), (
                f"this process may open {allowed} files: enough for {chains} chains in flight, and "
                f"not for limits.chains={limits.chains}; allow it more (ulimit -n {needed})"
            )
    return config, None


def allow_open_files(needed: int) -> int:
    """Let this process have so many files open, as far as it may be; how many it may have now."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS allows less than its hard limit says
        return soft
    return wanted
