"""JSON with long strings is read in chunks, with the same result as at once."""

import asyncio
import base64
import json
import random
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.intake.json_body import MAX_VALUES
from api.intake.json_uploads import LONG_STRING_BYTES, JsonUploadReader
from api.intake.uploads import UploadWriter
from shared.errors import PayloadTooLarge
from tests.api.images import noise_png
from tests.stack import Stack

DATA = random.Random(7).randbytes(3 * LONG_STRING_BYTES + 1)
TEXT = base64.b64encode(DATA).decode()


class Bytes(UploadWriter):
    """Keeps in memory what is written."""

    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data


def read(body: bytes, size: int) -> tuple[Any, list[tuple[bytes, str | None]]]:
    """The parsed remainder and the uploads of a body that arrives in chunks of this size."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    written: list[Bytes] = []

    async def target() -> Bytes:
        written.append(Bytes())
        return written[-1]

    reader = JsonUploadReader(target)
    remainder = json.loads(asyncio.run(reader.read(chunks())))
    return remainder, [
        (bytes(target.data), upload.error) for target, upload in zip(written, reader.uploads.values(), strict=True)
    ]


@pytest.mark.parametrize("size", [7, 1000, 65_536, 10**6])
@pytest.mark.parametrize(
    "written",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        TEXT.replace("/", "\\/"),
        TEXT[:99] + "\\r\\n" + TEXT[99:],
        TEXT.replace("+", "\\u002b"),
        TEXT[:99] + "  " + TEXT[99:],
        base64.urlsafe_b64encode(DATA).decode().rstrip("="),
        TEXT + "==",
    ],
    ids=["plain", "data-url", "php", "lines", "escaped", "blanks", "url-safe", "much-padding"],
)
def test_base64_in_every_notation_is_decoded_while_it_arrives(written: str, size: int) -> None:
    body = f'{{"prompt": "a \\"b\\\\", "image": ["{written}", "short"], "seed": 7}}'.encode()

    remainder, images = read(body, size)

    assert images == [(DATA, None)]
    assert (remainder["prompt"], remainder["image"][1], remainder["seed"]) == ('a "b\\', "short", 7)
    assert len(remainder["image"][0]) > 4000, "too long for any text"


@pytest.mark.parametrize(
    "text",
    [
        TEXT.rstrip("=")[:-1],
        f"{TEXT}AAAA",
        TEXT[:LONG_STRING_BYTES] + "!" + TEXT[LONG_STRING_BYTES:],
        f"data:x,{TEXT}",
        "\\\\" * LONG_STRING_BYTES,
        "\n" * LONG_STRING_BYTES * 2,
        "\u00e4" * LONG_STRING_BYTES,
    ],
    ids=["cut", "past-the-end", "foreign", "no-base64", "backslashes", "raw-lines", "umlauts"],
)
def test_invalid_base64_is_reported(text: str) -> None:
    _, ((_, error),) = read(f'{{"image": "{text}"}}'.encode(), 65_536)

    assert error


def test_json_beyond_the_limits_is_refused_while_it_arrives() -> None:
    for body in ("[" * (MAX_VALUES + 1), "[" + ",".join([f'"{TEXT}"'] * 20), " " * 2_000_000):
        with pytest.raises(PayloadTooLarge):
            read(body.encode(), 65_536)


def test_a_large_request_does_not_block_others(stack: Stack) -> None:
    """The event loop handles one chunk at a time, so others wait far shorter than reading the whole body takes."""
    api = stack.start_api(SD_BACKENDS="null")
    image = base64.b64encode(noise_png(2400, 2400)).decode()
    waits: list[float] = []
    done = threading.Event()

    def probe() -> None:
        while not done.is_set():
            begin = time.monotonic()
            api.get("/health/live")
            waits.append(time.monotonic() - begin)

    prober = threading.Thread(target=probe)
    prober.start()
    begin = time.monotonic()
    try:
        answer = api.post("/api/jobs", {"prompt": "x", "image": [image, image]})
    finally:
        took = time.monotonic() - begin
        done.set()
        prober.join()

    assert answer.status_code == 202, answer.text
    assert len(waits) > 20
    assert sorted(waits)[len(waits) * 95 // 100] < took / 5
