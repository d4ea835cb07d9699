"""What installers know: the name of this package, and the command that adds what is missing."""

import shlex
import sys
from pathlib import Path

DISTRIBUTION = "atts-lm"
"""For pip and ``importlib.metadata``. On the package index ``atts`` is another project."""


def install(extra: str) -> str:
    """The command that adds an extra to the environment of this process.

    None of them needs this package to be on an index, once it is installed. Tools that keep an
    environment for each command leave a file in it; the ``pip`` of the shell is another's there.
    """
    wanted = shlex.quote(f"{DISTRIBUTION}[{extra}]")
    if Path(sys.prefix, "uv-receipt.toml").exists():  # uv tool install
        return f"uv pip install --python {shlex.quote(sys.executable)} {wanted}"
    if Path(sys.prefix, "pipx_metadata.json").exists():
        return f"pipx inject {DISTRIBUTION} {wanted}"
    return f"pip install {wanted}"
