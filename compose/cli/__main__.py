"""The entry of the command line: `imagegen`, or `python -m compose.cli` where that is not on the path."""

import signal
import sys


def main() -> None:
    # While modules load, Ctrl-C would print a traceback, or be lost where Python must ignore exceptions.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from compose.cli import app

    signal.signal(signal.SIGINT, handler)
    try:
        app.main()
    # Typer handles it once a command runs.
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
