"""``atts servers``: start, watch and stop the servers of a configuration's models."""

import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.live import Live
from rich.table import Table

from atts.cli import ending
from atts.cli.commands import command_line, new_app
from atts.cli.ending import Ended
from atts.cli.options import ConfigFile, Settings
from atts.cli.terminal import EXIT_CODES, FAILED, INTERRUPTED, err, out, print_tables, say
from atts.config import Config, load_config
from atts.config.secrets import hide
from atts.engines.servers import lifecycle
from atts.engines.servers.lifecycle import (
    AUTHORS,
    FOLDER,
    answers,
    compile_deep_gemm,
    warm_up,
)
from atts.engines.servers.placed import DEFAULT, path_of, read_placement
from atts.engines.servers.plan import plan_servers
from atts.engines.servers.processes import ServerRecord, processes, read_record, tail
from atts.errors import ConfigError, StoreError
from atts.reports.table_layout import Figure, Sheet
from atts.store.run_directory import lock_run
from atts.text import safe_markup, visible
from atts.types import Author

app = new_app(
    help="Start, watch and stop the SGLang or vLLM servers of a configuration.",
    epilog=EXIT_CODES,
)

Directory = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where logs and process ids are kept.")
]
EveryDirectory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="Where logs and process ids are kept.",
        show_default="runs/servers, and those of suites in runs",
    ),
]
Only = Annotated[
    str | None,
    typer.Option("--only", metavar="MODEL", help="draft or target; without it, both."),
]
T = TypeVar("T")
PLAIN_SECONDS = 10.0


@app.command()
def up(
    config_file: ConfigFile = None,
    settings: Settings = None,
    directory: Directory = DEFAULT,
    only: Only = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Place server.replicas servers of each model on the nodes of a Ray cluster: that "
            "of this machine (auto) or at HOST:PORT. Of server.gpus only the number counts there.",
        ),
    ] = None,
) -> None:
    """Start the servers, both at once, and wait until they answer.

    What could go wrong is looked for first: a taken port, a missing package, a GPU that is not
    there. A server that dies is reported with the end of its log, and the other one is ended. The
    servers go on after this command and after its terminal: atts servers down ends them. On a
    cluster a server that dies later is started again.
    """
    config = load_config(config_file, settings)
    if cluster:
        _place(config, authors(only), directory, cluster)
        return
    records = start_servers(config, authors(only), directory)
    for record in records:
        say(f"{record.author}: {record.model} at {record.url}, log in {record.log}")


def _place(config: Config, which: tuple[Author, ...], directory: Path, cluster: str) -> None:
    from atts.cluster import servers as placing  # needs Ray

    with _Starting() as starting:
        placed = _started(placing.up(config, which, directory, cluster, starting.show))
    for placement in placed:
        urls = []
        for server in placement.servers:
            say(f"{placement.author}: {placement.model} at {server.url}, on {server.node}")
            urls.append(server.url)
        if directory != DEFAULT:  # where runs do not look
            setting = f"{placement.author}.urls=[{','.join(urls)}]"
            say(f"For a run: {command_line('--set', setting)}")


@app.command()
def status(directory: EveryDirectory = None) -> None:
    """Show the servers that were started in DIR, and whether they live and answer."""
    folders = [directory] if directory else _folders()
    records = [
        (folder, record)
        for folder in folders
        for author in AUTHORS
        if (record := read_record(folder, author))
    ]
    rows, healthy = _placed_rows(folders)
    if not records and not rows:
        say(f"No server was started in {_named(folders)}. atts servers up starts them.")
        return
    for folder, record in records:
        alive = processes(record)
        memory = sum(process.memory_info().rss for process in alive) / 2**30
        ready = bool(alive) and ending.run(answers(record.url, record.model))
        state = "answers" if ready else "does not answer yet" if alive else "ended"
        healthy &= ready
        named = (record.author, record.model, record.url, "this machine", record.pid)
        rows.append([str(cell) for cell in (*named, state, f"{memory:.1f}", folder)])
    names, *columns = zip(*rows, strict=True)
    labels = ("model", "address", "node", "process", "state", "GiB", "folder")
    figures = [
        Figure(label, cells, is_words=label not in ("process", "GiB"))
        for label, cells in zip(labels, columns, strict=True)
    ]
    print_tables([Sheet(things=names, figures=figures, as_rows=True)])
    if not healthy:
        raise typer.Exit(FAILED)


def _placed_rows(folders: list[Path]) -> tuple[list[list[str]], bool]:
    """A row for each server on a cluster, and whether all of them answer."""
    rows = []
    healthy = True
    for folder in folders:
        for author in AUTHORS:
            placement = read_placement(folder, author)
            if placement is None:
                continue
            from atts.cluster.servers import status as placed_status  # needs Ray

            for server, kept in placed_status(folder, author):
                state, cells = "its node does not reply", ("", "")
                if kept:
                    state = "answers" if kept.is_answering else "does not answer yet"
                    if kept.failure:
                        state = f"ended: {kept.failure.splitlines()[0]}"
                    if kept.restarts:
                        state += f", restarted {kept.restarts} times"
                    cells = (str(kept.pid), f"{kept.memory / 2**30:.1f}")
                healthy &= bool(kept and kept.is_answering)
                where = (author, placement.model, server.url, server.node, cells[0])
                rows.append([*where, state, cells[1], str(folder)])
    return rows, healthy


@app.command()
def logs(
    model: Annotated[str, typer.Argument(help="draft or target.")] = "target",
    directory: Directory = DEFAULT,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="How many, from the end.")
    ] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
) -> None:
    """Print the end of a server's log."""
    (author,) = authors(model)
    if path_of(directory, author).exists():
        _placed_logs(directory, author, lines, follow)
        return
    path = directory / f"{author}.log"
    if not path.is_file():
        raise StoreError(f"there is no log {path}; atts servers up makes it")
    out().print(visible(tail(path, lines)), markup=False)
    if not follow:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            if line := file.readline():
                out().print(visible(hide(line.rstrip("\n"))), markup=False)
            else:
                time.sleep(0.3)


def _placed_logs(directory: Path, author: Author, lines: int, follow: bool) -> None:
    from atts.cluster.servers import logs as placed_logs  # needs Ray

    if follow:
        raise ConfigError("the log of a server on a cluster is read once: leave --follow out")
    for server, text in placed_logs(directory, author, lines):
        say(f"{server.url} on {server.node}:")
        out().print(visible(text), markup=False)


@app.command()
def down(directory: EveryDirectory = None, only: Only = None) -> None:
    """End the servers that were started in DIR, with all that they started, and nothing else.

    Without --dir, those that a suite has left are ended, too.
    """
    which = authors(only)
    folders = [directory] if directory else _folders()
    ended, placed = [], []
    for folder in folders:
        if directory is None and folder != DEFAULT and _is_at_work(folder.parents[1]):
            say(f"{folder.parents[1]}: a suite is at work there, and ends its servers itself")
            continue
        for author in which:
            if path_of(folder, author).exists():
                from atts.cluster.servers import down as placed_down  # needs Ray

                placed += placed_down(folder, [author], say)
        ended += lifecycle.down(folder, which, say)
    for record in ended:
        say(f"Ended the {record.author}'s server, {record.model} at {record.url}")
    for placement in placed:
        count = len(placement.servers)
        servers = f"{count} servers" if count > 1 else "server"
        say(f"Ended the {placement.author}'s {servers}, {placement.model}, on the cluster")
    if not ended and not placed:
        say(f"No server of {_named(folders)} was running.")


def _folders() -> list[Path]:
    """Where servers are started if nothing else is said: by this command, and by suites."""
    return [DEFAULT, *sorted(DEFAULT.parent.glob(f"*/*/{FOLDER}"))]


def _named(folders: list[Path]) -> str:
    return ", ".join(map(str, folders))


def _is_at_work(suite: Path) -> bool:
    try:
        lock_run(suite).release()
    except StoreError:
        return True
    return False


@app.command()
def warm(
    config_file: ConfigFile = None,
    settings: Settings = None,
    directory: Directory = DEFAULT,
    only: Only = None,
    deep_gemm: Annotated[
        bool,
        typer.Option(
            "--deep-gemm",
            help="First let SGLang compile DeepGEMM's kernels, for FP8 models: up to an hour.",
        ),
    ] = False,
) -> None:
    """Let the servers compile and try all that a run needs, so that the first run does not pay.

    Servers that do not run are started for it and ended again: what was compiled stays on disk,
    where SGLang, FlashInfer, Triton and PyTorch keep it.
    """
    config = load_config(config_file, settings)
    wanted = [a for a in authors(only) if getattr(config, a).engine != "inprocess"]
    running = [
        a
        for a in wanted
        if ((record := read_record(directory, a)) and processes(record))
        or path_of(directory, a).exists()
    ]
    missing = [author for author in wanted if author not in running]
    if deep_gemm:
        plans = plan_servers(config, wanted)  # refuses a server that runs: its port is taken
        for plan in (plan for plan in plans if plan.options.engine == "sglang"):
            say(f"{plan.author}: compiling DeepGEMM's kernels, log in {directory}")
            seconds = compile_deep_gemm(plan, directory)
            say(f"{plan.author}: compiled after {seconds:.0f} s")
    try:
        if missing or not wanted:
            start_servers(config, missing, directory)
        for author in wanted:
            seconds = ending.run(warm_up(config.options_of(author), config.limits.chains))
            say(f"{author}: warm after {seconds:.0f} s")
    finally:
        lifecycle.down(directory, missing)


def authors(only: str | None) -> tuple[Author, ...]:
    """Which models a command is about.

    Raises:
        ConfigError: ``only`` is neither draft nor target.
    """
    if only is None:
        return AUTHORS
    for author in AUTHORS:
        if author == only:
            return (author,)
    raise ConfigError(f"{only!r}: there are draft and target")


def start_servers(
    config: Config, which: tuple[Author, ...] | list[Author], directory: Path
) -> list[ServerRecord]:
    """Start servers with live progress.

    Raises:
        ConfigError, ServerError: see ``atts.engines.servers.lifecycle.up``.
        typer.Exit: after Ctrl-C, SIGTERM or SIGHUP; what was started is ended again.
    """
    with _Starting() as starting:
        return _started(lifecycle.up(config, which, directory, starting.show))


def _started(starting: Coroutine[Any, Any, T]) -> T:
    """What has started; typer.Exit after a signal, when what was started is ended again."""
    try:
        return ending.run(starting)
    except (KeyboardInterrupt, Ended) as stop:
        say("Stopped; the servers that were starting are ended.")
        raise typer.Exit(getattr(stop, "exit_code", INTERRUPTED)) from None


class _Starting:
    """Shows what servers are doing until they answer: live in a terminal, else now and then."""

    def __init__(self) -> None:
        self._doing: dict[str, tuple[str, float]] = {}
        self._said: dict[str, float] = {}
        console = err()
        self._live = (
            Live(console=console, refresh_per_second=2, transient=True)
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def show(self, author: str, doing: str, seconds: float) -> None:
        self._doing[author] = (doing, seconds)
        if self._live:
            table = Table(box=None, show_header=False)
            for name, (what, since) in self._doing.items():
                table.add_row(name, f"{since:.0f} s", safe_markup(what[:100]))
            self._live.update(table)
        elif (
            doing == "answers" or seconds - self._said.get(author, -PLAIN_SECONDS) >= PLAIN_SECONDS
        ):
            self._said[author] = seconds
            say(f"{author}: {seconds:.0f} s, {doing[:100]}")

    def __enter__(self) -> "_Starting":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
