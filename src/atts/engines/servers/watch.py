"""Ends a server once the process that keeps it has ended, however that was.

``python -m atts.engines.servers.watch FOLDER AUTHOR``, on a pipe that only the keeper holds open.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from atts.engines.servers.lifecycle import down
from atts.types import Author

# It outlives this process's children, which a cluster may kill with it; a shell that is no longer
# there was its parent. Another descriptor, since a shell gives what is in the background no input.
_APART = 'exec 3<&0; "$@" <&3 3<&- >/dev/null 2>&1 &'


def watch(directory: Path, author: Author) -> IO[bytes]:
    """From now on the server of a folder ends when what is returned is closed, by whatever end."""
    command = [sys.executable, "-m", __name__, str(directory), author]
    shell = subprocess.Popen(  # noqa: S603 - fixed arguments
        ["/bin/sh", "-c", _APART, "sh", *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    shell.wait()
    if shell.stdin is None:
        raise AssertionError
    return shell.stdin


if __name__ == "__main__":
    sys.stdin.buffer.read()
    down(Path(sys.argv[1]), ["draft" if sys.argv[2] == "draft" else "target"])
