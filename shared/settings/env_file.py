"""Read settings from `.env`, in any encoding that editors save it in."""

import codecs
import io
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigurationError

_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read(path: Path = Path(".env")) -> Mapping[str, str]:
    """Read the variables that have a value; none if there is no file. Raises ConfigurationError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(
            f"{path.absolute()} cannot be read ({error.strerror}): make it a file that this user may read, or "
            "remove it."
        ) from None
    # Imported here: most processes have no `.env`.
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text, start = data.decode(encoding), None
        # No path and no variable of an environment can have this character.
        if "\0" in text:
            start = data.index(b"\0")
    except UnicodeDecodeError as error:
        text, start = "", error.start
    if start is not None:
        line = data[:start].count(b"\n") + 1
        raise ConfigurationError(f"{path.absolute()} is not UTF-8 text (line {line}): save it as UTF-8 in your editor.")
    # The library would leave the line out, and with it perhaps the API keys.
    for statement in parse_stream(io.StringIO(text)):
        if statement.error:
            raise ConfigurationError(
                f"{path.absolute()} is malformed (line {statement.original.line}): write NAME=value there, with a "
                "quote at both ends of the value or at none."
            )
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value}
