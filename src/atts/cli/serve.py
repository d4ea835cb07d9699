"""``atts serve``: the methods behind OpenAI's API."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from atts.cli import ending
from atts.cli.commands import new_app
from atts.cli.options import ConfigFile, Settings
from atts.cli.terminal import say
from atts.config import load_config
from atts.errors import ConfigError
from atts.package import install

EXAMPLES = """Examples:

    atts serve
    atts serve -c my.yaml --port 9000 --record

    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"model": "atts", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}'

The names of models are those of methods, alone or with a preset: /v1/models lists them. SIGTERM and
Ctrl-C let the replies that are being made end; a second Ctrl-C does not.

Exit codes: 0 ended when it was told to; 1 failed; 2 wrong use: the command line, the configuration
or the calibration."""

DEFAULTS = {"limits": {"patience_seconds": 0.0}}
"""A client is told at once that a server is gone; a run would wait for it."""

app = new_app()


@app.command(epilog=EXAMPLES)
def serve(
    config_file: ConfigFile = None,
    settings: Settings = None,
    host: Annotated[
        str,
        typer.Option(help="Where to listen. Other machines are let in only with an API key."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="A file with the key that clients must give.",
            show_default="the environment variable ATTS_API_KEY",
        ),
    ] = None,
    directory: Annotated[
        Path,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Where what the deciders have learnt is kept for the next start.",
        ),
    ] = Path("runs/serve"),
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="Write down all questions and chains there, for atts report."
        ),
    ] = False,
    waiting: Annotated[
        int,
        typer.Option(min=0, help="Chains that may wait to begin; requests beyond get status 429."),
    ] = 1024,
    drain_seconds: Annotated[
        float, typer.Option(min=0.0, help="How long replies may go on after SIGTERM.")
    ] = 60.0,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="auto|local|HOST:PORT",
            help="Serve from replicas on the nodes of a Ray cluster, by Ray Serve.",
            show_default="in this process",
        ),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --ray: how many. Limits, --waiting among them, are those of each. Each "
            "decides by what it has answered itself, and holds the take-over rate over that.",
        ),
    ] = 1,
) -> None:
    """Answer questions behind OpenAI's API, streamed as they are decided.

    Chat completions, with and without stream; several chains as choices, or voted to one. The
    configuration's limits.chains says how many chains are in flight. docs/endpoint.md has the rest.
    """
    if replicas > 1 and not cluster:
        raise ConfigError(f"--replicas {replicas} needs --ray: this process is one")
    try:
        from atts.gateway.access import read_key
        from atts.gateway.server import ServeOptions
        from atts.gateway.server import serve as serve_until_ended
    except ModuleNotFoundError as error:
        raise ConfigError(f"atts serve needs {error.name}: {install('serve')}") from error

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    options = ServeOptions(
        host=host,
        port=port,
        key=read_key(key_file),
        directory=directory,
        record=record,
        most_waiting=waiting,
        drain_seconds=drain_seconds,
    )

    def started(address: str, names: list[str]) -> None:
        say(f"Serving {', '.join(names)} at {address}/v1")

    config = load_config(config_file, settings, DEFAULTS)
    if cluster:
        from atts.gateway.replicated import serve_replicated

        ending.run(serve_replicated(config, options, cluster, replicas, started))
        return
    ending.run(serve_until_ended(config, options, started))
