"""Errors end the command line with one sentence, never with a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from compose.launcher.console import BOLD, RED, paint
from shared.errors import ImagegenError


class ClientError(Exception):
    """The command failed; the message says why and what to do."""


@contextmanager
def errors_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # The reader has enough, as `head` does. Python would complain when it flushes the rest.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ImagegenError, ClientError) as error:
        _exit(str(error))
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        _exit(f"{file}{error.strerror or type(error).__name__}.")


def _exit(sentence: str) -> None:
    with suppress(OSError, ValueError):
        print(paint(sentence, BOLD, RED, stream=sys.stderr), file=sys.stderr, flush=True)
    raise SystemExit(1) from None
