"""The command line: thin. It parses, calls, and prints."""


def main() -> None:
    """Run ``atts`` with the process's arguments."""
    from atts.cli.app import app

    app(prog_name="atts")
