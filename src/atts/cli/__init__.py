"""The command line: thin. It parses, calls, and prints."""


def main() -> None:
    """Run ``atts`` with the process's arguments."""
    from atts.cli import ending

    ending.leave()  # before anything is loaded that takes its time
    from atts.cli.app import app

    try:
        app(prog_name="atts")
    finally:
        ending.leave_done()
