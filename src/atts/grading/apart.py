"""Processes that never import the script they were started from.

Python's own have it imported, for functions of it that they may be sent; a script without
``if __name__ == "__main__"`` would so begin again inside each of them. Ours are sent none.
"""

import multiprocessing
import sys
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any

# A fork server is free of this process's threads, and has math-verify loaded when a process
# that was killed must be replaced.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_Base: Any = multiprocessing.get_context(_METHOD).Process  # type: ignore[attr-defined]


class _Process(_Base):  # type: ignore[misc]
    """What is sent to the new process names the module ``__main__``, which is away meanwhile."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: ANN401, N802  (Python's own name)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return _Base._Popen(process)
        finally:
            sys.modules["__main__"] = main


def context() -> BaseContext:
    """A context of multiprocessing whose processes are such."""
    made: Any = type(multiprocessing.get_context(_METHOD))()
    made.Process = _Process
    if _METHOD == "forkserver":
        made.set_forkserver_preload(["math_verify"])
    found: BaseContext = made
    return found
