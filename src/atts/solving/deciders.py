"""What decides for the questions of a solver, and outlives each of them, and the process too."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout

from atts.config import Config
from atts.conformal.calibration import Calibration
from atts.conformal.factory import make_control
from atts.errors import CalibrationError, StoreError
from atts.files import replacing
from atts.methods import METHODS
from atts.runs.activity import Activity
from atts.runs.setup import Setup, check_options, read_calibration, set_up

WINDOW = 1000
"""Scores of each turn that a decider without a calibration compares with: its memory is bounded."""

MOST = 32
"""Variants that are held; the one that was not asked for the longest goes first."""

_VERSION = 1


@dataclass
class Variant:
    """A method with its decider, and what its chains are doing."""

    key: str
    """Follows from what the decisions depend on."""
    setup: Setup
    """Without a problem; its control is that of all questions."""
    activity: Activity = field(default_factory=Activity)

    @property
    def rate(self) -> float | None:
        """The take-over rate that it aims at, if any."""
        return self.activity.nominal

    def forget(self, problem_id: str) -> None:
        """Drop what is held for one question."""
        if self.setup.control:
            self.setup.control.forget(problem_id)


class Deciders:
    """The variants that were asked for, and the file in which their deciders' state is kept."""

    def __init__(self, base: Config, path: Path | None = None) -> None:
        """``base`` is the configuration that a calibration was made for."""
        self._base = base
        self.path = path
        self._variants: dict[str, Variant] = {}  # the one that was asked for last, last
        self._kept: dict[str, Mapping[str, Any]] = {}  # read, and not asked for yet
        self._warn: Callable[[str], None] = lambda _: None
        self._saving = asyncio.Lock()
        self._calibrations: dict[Path, tuple[Calibration | None, str]] = {}

    @property
    def variants(self) -> Sequence[Variant]:
        """All that are held."""
        return list(self._variants.values())

    def of(self, config: Config) -> Variant:
        """The variant of a configuration.

        Raises:
            ConfigError: its options exclude each other.
            CalibrationError: its calibration is conditional, missing, or for something else.
        """
        check_options(config)
        calibration, digest = self._calibration(config)
        # Adaptive control holds the rate for any scores; of any other the calibration must be
        # that of what is asked.
        if config.take_over.control == "adaptive":
            names = ("prompt", "sampling", "draft", "target")
            config = config.model_copy(update={name: getattr(self._base, name) for name in names})
        key = _key(config, digest)
        variant = self._variants.pop(key, None)
        if variant is None:
            variant = self._made(key, set_up(config, [], calibration))
        elif calibration:
            calibration.check(config, [])
        self._variants[key] = variant
        while len(self._variants) > MOST:
            del self._variants[next(iter(self._variants))]
        return variant

    def _made(self, key: str, setup: Setup) -> Variant:
        method = METHODS[setup.config.method]
        if setup.control:
            options = setup.config.take_over
            setup = setup.deciding_by(make_control(options, setup.calibration, WINDOW))
        variant = Variant(key, setup)
        if method.aims_at_rate:
            variant.activity.nominal = setup.config.take_over.rate
        kept = self._kept.pop(key, None)
        if kept is not None and setup.control:
            try:
                setup.control.load_state(kept)
            except (KeyError, TypeError, ValueError, AttributeError, CalibrationError) as error:
                self._warn(
                    f"{self.path}: the state of {method.name} cannot be used ({error!r}); it "
                    "starts from nothing"
                )
                fresh = make_control(setup.config.take_over, setup.calibration, WINDOW)
                variant.setup = setup.deciding_by(fresh)
        return variant

    def _calibration(self, config: Config) -> tuple[Calibration | None, str | None]:
        """The calibration that is decided by, and a hash of its content."""
        path = config.take_over.calibration
        if path is None or not METHODS[config.method].needs_calibration:
            return None, None
        if path not in self._calibrations:
            found = read_calibration(config)
            content = found.to_json() if found else ""
            self._calibrations[path] = found, hashlib.sha256(content.encode()).hexdigest()
        calibration, digest = self._calibrations[path]
        if calibration and calibration.coverage == "conditional":
            raise CalibrationError(
                f"{path} is a conditional calibration, of single problems, and a question was "
                "never seen before: make a marginal one (take_over.coverage=marginal), or leave "
                "out take_over.calibration and set take_over.control=adaptive"
            )
        return calibration, digest

    @contextmanager
    def loaded(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Read the file, if there is one, and keep other processes from it while inside.

        ``warn`` is told of a state that cannot be used.

        Raises:
            StoreError: it cannot be read, is something else, or is another process's.
        """
        self._warn = warn
        if self.path is None:
            yield
            return
        lock = _locked(self.path)
        try:
            self._read(self.path)
            yield
        finally:
            lock.release()

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        advice = "name another file, or remove it to start from nothing"
        try:
            tree = orjson.loads(path.read_bytes())
            version, kept = tree["version"], dict(tree["deciders"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{path} holds no state of deciders ({error!r}): {advice}") from error
        if version != _VERSION:
            raise StoreError(
                f"{path} was written by another version of atts (format {version!r}, here "
                f"{_VERSION}): {advice}"
            )
        self._kept = kept

    async def save(self) -> None:
        """Write the file, if there is to be one: all of it, or nothing.

        Raises:
            StoreError: it cannot be written.
        """
        if self.path is None:
            return
        async with self._saving:
            states = {
                variant.key: variant.setup.control.state()
                for variant in self._variants.values()
                if variant.setup.control
            }
            tree = {"version": _VERSION, "deciders": {**self._kept, **states}}
            await asyncio.to_thread(_write, self.path, orjson.dumps(tree))


def _locked(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A lock of the operating system: it ends with the process, however that ends.
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"another process keeps its deciders' state in {path}: name another file"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot lock {path}: {error.strerror or error}") from error
    return lock


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _key(config: Config, calibration: str | None) -> str:
    """What a decider's decisions depend on, as a name."""
    take_over = config.take_over.model_dump(
        mode="json", exclude={"calibration", "certificate", "record_surprises"}
    )
    depends: dict[str, Any] = {"method": config.method}
    if METHODS[config.method].needs_calibration:
        depends |= {
            "models": [config.draft.model, config.target.model],
            "take_over": take_over,
            "turns": config.turns.model_dump(mode="json"),
            "calibration": calibration,
        }
    if METHODS[config.method].aims_at_rate:
        depends["rate"] = config.take_over.rate
    return hashlib.sha256(orjson.dumps(depends, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
