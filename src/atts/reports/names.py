"""What runs are called where several stand side by side."""

from collections.abc import Sequence
from pathlib import Path


def run_names(directories: Sequence[Path]) -> list[str]:
    """The names of the folders, or the paths where two folders have one name.

    >>> run_names([Path("runs/a"), Path("runs/b")]), run_names([Path("x/a"), Path("y/a")])
    (['a', 'b'], ['x/a', 'y/a'])
    """
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return names
