"""How the command line ends when something goes wrong: with one sentence, never with a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from compose.launcher.console import BOLD, RED, paint
from shared.errors import ImagegenError


class ClientError(Exception):
    """What was wanted could not be done; the message says why and what to do."""


@contextmanager
def errors_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Whoever read it has enough, as `head` does. Python would complain when it flushes what is left.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ImagegenError, ClientError) as error:
        _end(str(error))
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        _end(f"{what}{error.strerror or type(error).__name__}.")


def _end(sentence: str) -> None:
    with suppress(OSError, ValueError):
        print(paint(sentence, BOLD, RED, stream=sys.stderr), file=sys.stderr, flush=True)
    raise SystemExit(1) from None
