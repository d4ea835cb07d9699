"""``atts view``: the report of runs that go on."""

import webbrowser
from typing import Annotated

import typer

from atts.cli import ending
from atts.cli.commands import new_app
from atts.cli.options import RunFolders, run_directories
from atts.cli.terminal import say
from atts.errors import ConfigError
from atts.package import install

EXAMPLES = """Examples:

    atts view runs/atts-1234 --open
    atts view runs/demo/001 --port 9000

Exit codes: 0 ended when it was told to; 1 failed; 2 wrong use."""

app = new_app()


@app.command(epilog=EXAMPLES)
def view(
    runs: RunFolders,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free one.")
    ] = 0,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
) -> None:
    """Show the report of runs in the browser, renewed while they go on, until Ctrl-C.

    It is the page of atts report --html. Only this machine can see it.
    """
    run_directories(runs)  # complains of what is none
    try:
        from atts.gateway.view import view as view_until_ended
    except ModuleNotFoundError as error:
        raise ConfigError(f"atts view needs {error.name}: {install('serve')}") from error

    def started(address: str) -> None:
        say(f"The report is at {address}, until Ctrl-C")
        if open_browser:
            webbrowser.open(address)

    ending.run(view_until_ended(runs, "127.0.0.1", port, started))
