"""A run directory whose problems come one by one, and of which nothing is held in memory."""

import os
from pathlib import Path
from typing import Self

from atts.config import Config
from atts.conformal.calibration import Calibration
from atts.errors import StoreError
from atts.files import atomic_write, to_jsonl
from atts.store.contents import CALIBRATION, CHAINS, CONFIG, PROBLEMS, read_config
from atts.store.run_directory import config_yaml, lock_run
from atts.types import Chain, Problem


class GrowingRun:
    """Such a directory, locked against every other process; ``read_run`` reads it at any time."""

    def __init__(self, directory: Path, config: Config, calibration: Calibration | None) -> None:
        """Make it, or go on with it; torn last lines, as a killed process leaves them, are cut off.

        Raises:
            StoreError: it cannot be written, another process holds it, or it is of another
                configuration.
        """
        self.directory = directory
        self._lock = lock_run(directory)
        try:
            if (directory / CONFIG).exists():
                _check_same(directory, config)
            else:
                if calibration is not None:
                    atomic_write(directory / CALIBRATION, calibration.to_json())
                atomic_write(directory / CONFIG, config_yaml(config))
            self._problems = _open_at_last_line(directory / PROBLEMS)
            self._chains = _open_at_last_line(directory / CHAINS)
        except OSError as error:
            self._lock.release()
            raise StoreError(f"cannot open the run directory {directory}: {error}") from error
        except BaseException:
            self._lock.release()
            raise

    def add(self, problem: Problem, chains: list[Chain]) -> None:
        """Write down a problem and its chains; on return a killed process can no longer lose them.

        Raises:
            StoreError: they cannot be written, e.g. because the disk is full.
        """
        try:
            # In this order, since a chain without its problem could not be read.
            _append(self._problems, to_jsonl([problem]).encode())
            _append(self._chains, to_jsonl(chains).encode())
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.directory}: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        """Close the files and let go of the lock."""
        os.close(self._problems)
        os.close(self._chains)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _check_same(directory: Path, config: Config) -> None:
    if read_config(directory).digest() != config.digest():
        raise StoreError(f"{directory} holds a run of another configuration")


_BLOCK = 1 << 20


def _open_at_last_line(path: Path) -> int:
    """Open a file to append to it, without a last line that was not written to its end."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - _BLOCK)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    os.ftruncate(file, end)
    return file


def _append(file: int, data: bytes) -> None:
    """Append all of it, or nothing."""
    length = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        os.ftruncate(file, length)
        raise
