"""JSON whose long strings are images is read piece by piece, and means what it would mean in one."""

import asyncio
import base64
import json
import random
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.intake.json_uploads import LONG, JsonUploadReader
from shared.errors import PayloadTooLarge
from tests.api.images import noise_png
from tests.stack import Stack

DATA = random.Random(7).randbytes(3 * LONG + 1)
TEXT = base64.b64encode(DATA).decode()


class Bytes:
    def __init__(self) -> None:
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        self.data += data


def lifted(body: bytes, size: int) -> tuple[Any, list[tuple[bytes, str | None]]]:
    """What is left, parsed, and what was lifted, of a body that comes in pieces of this size."""

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async def target() -> Bytes:
        return Bytes()

    lifting = JsonUploadReader(target, 1000)
    left = json.loads(asyncio.run(lifting.read(pieces())))
    return left, [(bytes(long.target.data), long.wrong) for long in lifting.lifted.values()]


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
    ],
    ids=["plain", "data-url", "php", "lines", "escaped", "blanks"],
)
def test_an_image_is_decoded_as_it_comes_in_every_form(written: str, size: int) -> None:
    body = f'{{"prompt": "a \\"b\\\\", "image": ["{written}", "short"], "seed": 7}}'.encode()

    left, images = lifted(body, size)

    assert images == [(DATA, None)]
    assert (left["prompt"], left["image"][1], left["seed"]) == ('a "b\\', "short", 7)
    assert len(left["image"][0]) > 4000, "too long for any text"


@pytest.mark.parametrize(
    "text",
    [
        TEXT[:-1],
        f"{TEXT}AAAA",
        TEXT[:LONG] + "!" + TEXT[LONG:],
        f"data:x,{TEXT}",
        "\\\\" * LONG,
        "\n" * LONG * 2,
        "\u00e4" * LONG,
    ],
    ids=["cut", "past-the-end", "foreign", "no-base64", "backslashes", "raw-lines", "umlauts"],
)
def test_what_is_no_base64_is_told(text: str) -> None:
    _, ((_, wrong),) = lifted(f'{{"image": "{text}"}}'.encode(), 65_536)

    assert wrong


def test_more_than_a_request_has_is_refused_as_it_comes() -> None:
    for body in ("[" * 1001, "[" + ",".join([f'"{TEXT}"'] * 20), " " * 2_000_000):
        with pytest.raises(PayloadTooLarge):
            lifted(body.encode(), 65_536)


def test_nobody_waits_while_a_large_request_is_read(stack: Stack) -> None:
    """All the event loop does meanwhile are pieces: what others wait is far below what reading all of it takes."""
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
    try:
        answer = api.post("/api/jobs", {"prompt": "x", "image": [image, image]})
    finally:
        done.set()
        prober.join()

    assert answer.status_code == 202, answer.text
    assert len(waits) > 20
    assert sorted(waits)[len(waits) * 95 // 100] < 0.1
