"""Progress of a call, in a terminal or in a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def showing(wanted: bool | None, total: int) -> Iterator[Callable[[], None]]:
    """Gives what is to be called for each of ``total`` chains that has ended.

    ``wanted``: None shows it where somebody can see it, in a terminal or a notebook.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if wanted is False or (wanted is None and not (console.is_terminal or console.is_jupyter)):
        yield lambda: None
    elif console.is_jupyter:
        yield from _in_notebook(total)
    else:
        yield from _in_terminal(console, total)


def _in_terminal(console: "Console", total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("solving"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("chains"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=console.is_terminal) as shown:
        task = shown.add_task("solving", total=total)
        yield partial(shown.advance, task)


def _in_notebook(total: int) -> Iterator[Callable[[], None]]:
    # A line that is replaced: rich's own would ask for ipywidgets.
    from IPython.display import display

    done = 0

    def line() -> dict[str, Any]:
        return {"text/plain": f"solving: {done} of {total} chains"}

    def count() -> None:
        nonlocal done
        done += 1
        handle.update(line(), raw=True)

    handle = display(line(), raw=True, display_id=True)
    try:
        yield count
    finally:
        handle.update({"text/plain": ""}, raw=True)
