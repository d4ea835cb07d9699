"""``python -m atts`` is ``atts``."""

from atts.cli import main

if __name__ == "__main__":
    main()
