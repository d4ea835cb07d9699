"""Shards: shares of a run's problems, each made by a job of its own in a directory of its own.

A shard's directory is that of a run of its problems, with the configuration of the whole run and
``shard.json`` beside it, which says what it is a share of. ``runs/merging.py`` puts them together.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, ValidationError

from atts.errors import ConfigError, StoreError
from atts.files import read_plain, to_jsonl
from atts.store.contents import CONFIG, SHARD
from atts.types import Problem, Record


class Share(NamedTuple):
    """One of several equal parts of a run's problems."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """What ``--shard`` takes.

        Raises:
            ConfigError: it is none.

        >>> Share.parse("3/8")
        Share(number=3, of=8)
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"--shard takes the number of a share and how many there are, from 1/8 to 8/8; got "
                f"{text[:40]!r}"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def positions(self, count: int) -> range:
        """Where its problems stand among ``count``: every so many, since sets are often sorted.

        >>> [list(Share(number, 3).positions(8)) for number in (1, 2, 3)]
        [[0, 3, 6], [1, 4, 7], [2, 5]]
        """
        return range(self.number - 1, count, self.of)


class Shard(Record):
    """``shard.json``: what a run directory is a share of."""

    number: int = Field(ge=1)
    of: int = Field(ge=1)
    problems: int = Field(ge=1)
    """Of the whole run."""
    digest: str
    """Of all of them in their order: 16 hexadecimal digits."""

    @classmethod
    def of_run(cls, share: Share, problems: Sequence[Problem]) -> Self:
        """That of a run over all of these problems.

        Raises:
            ConfigError: there are not so many.
        """
        if share.of > len(problems):
            raise ConfigError(
                f"--shard {share}: the run has {len(problems)} problems, and a share has at least "
                "one; make fewer shards, or take more problems"
            )
        digest = hashlib.sha256(to_jsonl(problems).encode()).hexdigest()[:16]
        return cls(number=share.number, of=share.of, problems=len(problems), digest=digest)

    @property
    def share(self) -> Share:
        """Which it is."""
        return Share(self.number, self.of)


def read_shard(directory: Path) -> Shard | None:
    """What a run directory is a share of; None if it holds a whole run.

    Raises:
        StoreError: the file is corrupt, or cannot be read.
    """
    path = directory / SHARD
    try:
        return Shard.model_validate_json(read_plain(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError:
        raise StoreError(f"{path} is corrupt; restore it, or make the shard again") from None


def check_share(directory: Path, ours: Shard | None) -> bool:
    """Whether the other shares of the run have grown; another share is refused, and a shard as a
    whole run, and the other way round.

    Raises:
        ConfigError: the directory holds another share.
        StoreError: ``shard.json`` is corrupt, or cannot be read.
    """
    theirs = read_shard(directory)
    if theirs is not None and ours is None:
        raise ConfigError(
            f"{directory} holds shard {theirs.share} of a run: go on with it by --shard "
            f"{theirs.share}, put the shards together by atts merge, or choose another --out"
        )
    if ours is not None and (theirs is None or theirs.share != ours.share):
        held = f"shard {theirs.share}" if theirs else "a whole run"
        raise ConfigError(
            f"{directory} holds {held}, not shard {ours.share}; choose another --out for each shard"
        )
    return theirs != ours


def shards_among(paths: Sequence[Path]) -> list[Path]:
    """The shards' directories that paths name; a path that is no run stands for the shards in it.

    Raises:
        StoreError: there is none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            listed = [path]
            if not (path / CONFIG).is_file():
                listed = sorted(each for each in path.iterdir() if (each / SHARD).is_file())
                listed = [each for each in listed if (each / CONFIG).is_file()]
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
        if not listed:
            raise StoreError(f"{path} is neither a run directory nor a folder with shards in it")
        for each in listed:
            found.setdefault(each.resolve(), each)
    return list(found.values())
