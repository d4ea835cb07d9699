"""Python's search for garbage in cycles, while thousands of chains are open."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (50_000, 20, 1_000)


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Let the collector look at young objects seldom, and at all objects practically never.

    Chains are not part of cycles, and are freed without it. Each full search looks at every
    token id of every open chain; with more chains there are more searches, and each takes longer
    (``benchmarks/overhead.py``).
    """
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
