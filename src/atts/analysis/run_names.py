"""What runs are called where several stand side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

_DIGEST = re.compile(r"(?<=-[0-9a-f]{4})[0-9a-f]{12}$")
"""All but the first digits of the digest that ``atts run`` ends a folder's name with."""


def run_names(directories: Sequence[Path]) -> list[str]:
    """The names of the folders, or the paths where two folders have one name.

    Of a digest four digits stay, if they tell the runs apart.

    >>> run_names([Path("runs/a"), Path("runs/b")]), run_names([Path("x/a"), Path("y/a")])
    (['a', 'b'], ['x/a', 'y/a'])
    >>> run_names([Path("runs/atts-1be15a13e53a9d30"), Path("runs/target-only-d99249398214dccf")])
    ['atts-1be1', 'target-only-d992']
    """
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        return [str(directory) for directory in directories]
    short = [_DIGEST.sub("", name) for name in names]
    return short if len(set(short)) == len(short) else names
