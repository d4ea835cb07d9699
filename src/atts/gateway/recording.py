"""What a server has answered, written down as run directories that ``atts report`` reads."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from atts.solving.deciders import Variant
from atts.solving.question import Question
from atts.store.environment import record_environment
from atts.store.growing_run import GrowingRun
from atts.types import Chain

MOST_OPEN = 32
"""Run directories that are held open; the one that was not written to the longest is closed."""


class Recorder:
    """A folder of run directories: one for each configuration that was asked for, samples included,
    so that ``atts report`` finds complete runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, GrowingRun] = OrderedDict()

    def add(self, question: Question, variant: Variant, seed: int, chains: Sequence[Chain]) -> None:
        """Write down a question and the chains of it that have ended.

        Args:
            question: what was asked.
            variant: what it was decided by.
            seed: stands in the record for those of the single questions.
            chains: at least one.

        Raises:
            StoreError: they cannot be written.
        """
        config = question.config.model_copy(update={"seed": seed})
        name = f"{config.method}-{config.digest()}"
        run = self._open.pop(name, None)
        if run is None:
            run = GrowingRun(self._folder / name, config, variant.setup.calibration)
            record_environment(run.directory, config)
        self._open[name] = run
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        run.add(question.problem, list(chains))

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            self._open.popitem()[1].close()
