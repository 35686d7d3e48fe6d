"""What is sent to the provider, what is taken from it, and for how long."""

import io
import itertools
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from shared.errors import ForbiddenUrl, InvalidOutput, JobFailure, ProviderResponseLost, TimedOut, UpstreamRejected
from shared.jobs.job import ProviderTask as Task
from shared.models import bfl
from shared.net.outbound import HttpResponse
from tests.worker.engines.bfl.conftest import QUICK, Table
from tests.worker.engines.bfl.provider import KEY, Asked, Reply, image, refused, state
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.bfl import client
from worker.engines.bfl.http import Http, NoResponse, ProviderTimeouts, Turn
from worker.engines.bfl.requests import aspect_ratio
from worker.images import decoding
from worker.images.decoding import decode_provider_image


class Stop(Exception):
    """What a watch raises."""


def after(calls: int) -> Callable[[], None]:
    """A check that stops the job when it was called so often."""
    counter = itertools.count(1)

    def check() -> None:
        if next(counter) > calls:
            raise Stop

    return check


def sent(table: Table, **fields: object) -> dict[str, object]:
    table.made(**fields)
    body: dict[str, object] = table.provider.posts[0].body
    return body


def test_a_image_is_made_of_one_post(table: Table) -> None:
    (made,) = table.made()

    assert made.pixels.shape == (64, 64, 3)
    assert made.seed == 7
    assert [asked.path for asked in table.provider.posts] == ["/v1/flux-2-pro-preview"]


@pytest.mark.parametrize("model", [name for name, own in bfl.MODELS.items() if not own.requires])
def test_every_model_gets_the_fields_that_it_knows(table: Table, model: str) -> None:
    own = bfl.MODELS[model]
    body = sent(table, bfl_model=model, output_format="webp", num_inference_steps=20, guidance_scale=2.0)

    expected: dict[str, object] = {"prompt": "a cat", "seed": 7, "output_format": "webp"}
    expected |= {"aspect_ratio": "1:1"} if own.only_ratio else {"width": own.width, "height": own.height}
    if model in ("flux-2-flex", "flux-dev"):
        expected |= {"steps": 20, "guidance": 2.0}
    assert body == expected
    assert table.provider.posts[0].path == f"/v1/{model}"


@pytest.mark.parametrize(
    ("width", "height", "ratio"),
    [
        (1024, 1024, "1:1"),
        (1344, 768, "7:4"),
        (1920, 1080, "16:9"),
        (1080, 1920, "9:16"),
        (2100, 900, "7:3"),
        (900, 2100, "3:7"),
        (1000, 999, "1:1"),
    ],
)
def test_an_aspect_ratio_is_told_in_small_numbers(width: int, height: int, ratio: str) -> None:
    assert aspect_ratio(width, height) == ratio


def test_each_of_several_images_is_a_task_with_a_seed_of_its_own(table: Table) -> None:
    images = table.made(num_images=3)

    assert [made.seed for made in images] == [7, 8, 9]
    assert [asked.body["seed"] for asked in table.provider.posts] == [7, 8, 9]


@pytest.mark.parametrize("status", ["Pending", "Reasoning", "Generating"])
def test_a_task_that_goes_on_is_asked_after_again(table: Table, status: str) -> None:
    table.provider.polls = [state(status), state(status, progress=0.5), table.provider.ready()]
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append))

    assert table.provider.count("/v1/get_result") == 3
    assert [(step.step, step.steps) for step in steps] == [(50, 100)]


@pytest.mark.parametrize("progress", [None, "half", -1, 2, True, [], 1e400])
def test_progress_that_is_none_is_left_out(table: Table, progress: object) -> None:
    table.provider.polls = [state("Pending", progress=progress), table.provider.ready()]
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append))

    assert steps == []


def test_progress_of_several_images_goes_on_growing(table: Table) -> None:
    table.provider.polls = [state("Pending", progress=0.5), table.provider.ready()] * 2
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append), num_images=2)

    assert [step.step for step in steps] == [25, 75]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, raw=b"<html>"),
        state("Dreaming"),
        state("Ready"),
        state("Ready", result={"sample": None}),
        *[refused(status) for status in (400, 401, 402, 403, 409, 422, 429, 500, 502, 503, 504)],
        Reply(307, headers={"Location": "/"}),
        Reply(hang_up=True),
        Reply(seconds=0.7, body={}),
        Reply(raw=b"<html>"),
        Reply(raw=b""),
        Reply(body={}),
        Reply(body=[]),
        Reply(body={"status": 7}),
        Reply(raw=b"x" * 2_000_000),
    ],
)
def test_only_a_verdict_on_it_ends_a_task_that_was_bought(table: Table, reply: Reply) -> None:
    # But for the slow one, more often than a post is tried.
    table.provider.polls = [*[reply] * (1 if reply.seconds else 11), table.provider.ready()]

    assert len(table.made()) == 1
    assert len(table.provider.posts) == 1


def test_a_task_that_is_not_known_yet_is_asked_after_again(table: Table) -> None:
    table.provider.polls = [state("Task not found"), refused(404, "no such task")] * 3 + [table.provider.ready()]

    assert len(table.made()) == 1


def test_a_task_that_is_not_found_now_and_then_goes_on(table: Table) -> None:
    table.provider.polls = [state("Task not found"), state("Pending")] * 10 + [table.provider.ready()]

    assert len(table.made()) == 1


@pytest.mark.parametrize(
    "reply",
    [
        *[Reply(status, raw=b"expired") for status in (400, 401, 403, 404, 410)],
        Reply(302, headers={"Location": "http://10.0.0.1/image"}),
        Reply(raw=b"<html>One moment please"),
    ],
)
def test_an_image_that_is_not_there_is_asked_for_at_a_fresh_address(table: Table, reply: Reply) -> None:
    def ready(number: int) -> Reply:
        return state("Ready", result={"sample": f"{table.provider.delivery_url}/image?sig={number}"})

    table.provider.polls = [ready(1), ready(2), ready(3)]
    table.provider.downloads = [reply, reply, Reply(raw=image())]

    assert len(table.made()) == 1
    assert [table.provider.count(f"/image?sig={number}") for number in (1, 2, 3)] == [1, 1, 1]
    assert len(table.provider.posts) == 1


def test_an_address_that_is_none_of_theirs_is_waited_out(table: Table) -> None:
    table.provider.polls = [state("Ready", result={"sample": "http://10.0.0.1/image"}), table.provider.ready()]

    assert len(table.made()) == 1


def test_an_image_that_lies_elsewhere_is_followed_there(table: Table) -> None:
    elsewhere = Reply(302, headers={"Location": "/image/here"})
    table.provider.downloads = [elsewhere, elsewhere, Reply(raw=image())]

    assert len(table.made()) == 1
    assert table.provider.count("/v1/get_result") == 1


@pytest.mark.parametrize("told", [{}, {"polling_url": None}, {"polling_url": "https://example.com/task"}])
def test_a_task_without_an_address_of_theirs_is_asked_after_where_all_are(
    table: Table, told: dict[str, object]
) -> None:
    table.provider.submits = [Reply(body={"id": "a/1&b", **told})]

    assert len(table.made()) == 1
    assert table.provider.count("/v1/get_result?id=a%2F1%26b") == 1


def test_fetching_goes_on_while_the_server_fails(table: Table) -> None:
    whole = image()
    bad = [refused(500), Reply(hang_up=True), Reply(raw=whole[:100], claim=len(whole)), Reply(seconds=0.7, raw=whole)]
    table.provider.downloads = [*bad, Reply(raw=whole)]

    assert len(table.made()) == 1


def test_any_good_answer_to_a_post_is_one(table: Table) -> None:
    table.provider.submits = [Reply(202, body={"id": "a", "polling_url": f"{table.provider.api_url}/p"})]

    assert len(table.made()) == 1


def test_a_post_that_was_turned_away_is_sent_again(table: Table) -> None:
    table.provider.submits = [refused(429), table.provider.accept]
    watch = RecordingWatch()

    table.made(watch)

    assert len(table.provider.posts) == 2
    assert watch.saved_provider_tasks[:3] == [(Task(),), (), (Task(),)]


@pytest.mark.parametrize(("reads", "sent"), [(1_000, False), (6_000_000, True)])
def test_a_post_may_have_been_taken_once_all_of_it_was_sent(reads: int, sent: bool) -> None:
    body = io.BytesIO(b"A" * 5_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            connection, _ = listener.accept()
            with connection:
                left = min(reads, 5_000_000)
                while left > 0 and (data := connection.recv(1 << 16)):
                    left -= len(data)

        server = threading.Thread(target=cut)
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NoResponse) as raised:
            Http(url, SecretStr(KEY), QUICK).call("POST", url, 2.0, 1000, lambda: None, body)
        server.join()

    assert raised.value.sent is sent


@pytest.mark.parametrize("where", ["submit", "poll"])
def test_they_say_how_long_to_wait(table: Table, where: str) -> None:
    busy = refused(429, Retry_After="3600")
    if where == "submit":
        table.provider.submits = [busy, table.provider.accept]
    else:
        table.provider.polls = [busy, table.provider.ready()]
    begin = time.monotonic()

    table.made()

    # Not an hour: the test's patience ends sooner.
    assert 0.4 <= time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.5),
        ("-5", 0.5),
        ("soon", 0.5),
        ("", 0.5),
        ("99999999999999999999", 60.0),
        (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 60.0),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0.5),
    ],
    # Every process that runs tests must find the same names.
    ids=["seconds", "none", "less than none", "words", "nothing", "ages", "a moment to come", "a moment past"],
)
def test_every_way_to_say_how_long_is_understood(told: str, seconds: float) -> None:
    patience = ProviderTimeouts()

    assert patience.wait_seconds(0.5, HttpResponse(429, {"Retry-After": told}, b"").retry_after()) == seconds


@pytest.mark.parametrize("apart", [timedelta(), timedelta(days=3), timedelta(days=-3)])
def test_a_moment_to_come_is_one_of_their_clock(apart: timedelta) -> None:
    now = datetime.now(UTC) + apart
    headers = {"Date": format_datetime(now, usegmt=True), "Retry-After": format_datetime(now + timedelta(seconds=20))}

    assert HttpResponse(429, headers, b"").retry_after() == 20


def test_pauses_grow_to_a_limit_and_differ() -> None:
    pauses = list(itertools.islice(ProviderTimeouts().pauses(), 200))

    assert 0.4 <= pauses[0] <= 0.6
    assert 0.6 <= pauses[1] <= 0.9
    assert all(4 <= pause <= 6 for pause in pauses[10:])
    assert len(set(pauses)) == 200


def test_a_job_can_be_stopped_between_two_questions(table: Table) -> None:
    table.provider.polls = [state("Pending")]

    with pytest.raises(Stop):
        table.made(RecordingWatch(check=after(20)))

    assert len(table.provider.posts) == 1


def test_a_job_can_be_stopped_while_it_waits_to_be_sent_again(table: Table) -> None:
    table.provider.submits = [refused(429, Retry_After="60")]

    with pytest.raises(Stop):
        table.made(RecordingWatch(check=after(2)))


def test_a_post_is_never_stopped_half_way(table: Table) -> None:
    table.provider.submits = [Reply(seconds=0.3, body={"id": "a", "polling_url": f"{table.provider.api_url}/p"})]
    watch = RecordingWatch(check=after(1))

    with pytest.raises(Stop):
        table.made(watch)

    assert [task.id for task in watch.provider_tasks] == ["a"]


def test_a_image_that_comes_in_drops_ends_with_the_time(table: Table) -> None:
    table.provider.downloads = [Reply(raw=image(), trickle=True)]
    table.seconds = 1.0
    begin = time.monotonic()

    with pytest.raises(TimedOut):
        table.made()

    assert time.monotonic() - begin < 3


def test_a_task_is_on_record_before_it_is_sent_and_before_it_is_asked_after(table: Table) -> None:
    watch = RecordingWatch()
    seen: list[tuple[str, tuple[Task, ...]]] = []

    def note(asked: Asked) -> Reply:
        seen.append((asked.method, watch.provider_tasks))
        return (table.provider.accept if asked.method == "POST" else table.provider.ready())(asked)

    table.provider.submits, table.provider.polls = [note], [note]

    table.made(watch)

    task = Task(id="task-1", polling_url=f"{table.provider.api_url}/v1/get_result?id=task-1", cost=3.0)
    assert seen == [("POST", (Task(),)), ("GET", (task,))]


def test_the_final_price_is_the_one_on_record(table: Table) -> None:
    table.provider.polls = [table.provider.ready(cost=4.5)]
    watch = RecordingWatch()

    table.made(watch)

    assert [task.cost for task in watch.provider_tasks] == [4.5]


def test_a_task_that_an_earlier_attempt_sent_is_asked_after_and_not_sent_again(table: Table) -> None:
    old = Task(id="old", polling_url=f"{table.provider.api_url}/v1/get_result?id=old", cost=3.0)

    images = table.made(RecordingWatch(provider_tasks=(old,)), num_images=2)

    assert len(images) == 2
    assert [asked.body["seed"] for asked in table.provider.posts] == [8]
    assert table.provider.count("/v1/get_result?id=old") == 1


def test_a_price_that_is_told_late_forgets_no_task_that_was_bought(table: Table) -> None:
    url = f"{table.provider.api_url}/v1/get_result?id="
    old = tuple(Task(id=name, polling_url=url + name, cost=3.0) for name in ("a", "b"))
    table.provider.polls = [table.provider.ready(cost=4.5)]
    watch = RecordingWatch(provider_tasks=old)

    assert len(table.made(watch, num_images=2)) == 2
    assert table.provider.posts == []
    assert [task.cost for task in watch.provider_tasks] == [4.5, 4.5]


def test_a_task_whose_sender_died_before_the_answer_is_not_sent_again(table: Table) -> None:
    with pytest.raises(ProviderResponseLost, match="may have charged"):
        table.made(RecordingWatch(provider_tasks=(Task(),)))

    assert table.provider.asked == []


def test_the_key_goes_to_the_api_and_not_to_where_the_image_lies(table: Table) -> None:
    table.made()

    asked = table.provider.asked
    assert [one.headers.get("x-key") for one in asked] == [KEY, KEY, None]
    assert KEY not in json.dumps([dict(one.headers) for one in asked if one.path.startswith("/image")])


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.bfl.ai/v1/get_result?id=1", True),
        ("https://api.eu2.bfl.ai/v1/get_result?id=1", True),
        ("https://api.us-1.bfl.ai:443/x", True),
        ("http://api.bfl.ai/x", False),
        ("https://api.bfl.ai:8443/x", False),
        ("https://api.a.b.bfl.ai/x", False),
        ("https://api.bfl.ai.example.com/x", False),
        ("https://evil-api.bfl.ai/x", False),
        ("https://delivery-eu1.bfl.ai/x", False),
        ("https://example.com/api.bfl.ai", False),
        ("https://user@api.bfl.ai/x", False),
        ("https://example.com\\@api.bfl.ai/x", False),
        ("https://api.bfl.ai\\.example.com/x", False),
        ("https://api.bfl.ai /x", False),
        ("https://api.bfl.ai\n.example.com/", False),
        ("https://api.bfl.ai:port/x", False),
        ("https://[api.bfl.ai/x", False),
        ("ftp://api.bfl.ai/x", False),
        ("", False),
        ("https://own.example.com:8000/x", True),
        ("https://own.example.com/x", False),
        ("http://own.example.com:8000/x", False),
    ],
)
def test_only_the_apis_own_hosts_get_the_key(url: str, may: bool) -> None:
    assert Http("https://own.example.com:8000", SecretStr(KEY), ProviderTimeouts()).may_have_key(url) is may


@pytest.mark.parametrize(
    "url",
    [
        "http://delivery-eu1.bfl.ai/a",
        "https://127.0.0.1/a",
        "https://10.1.2.3/a",
        "https://169.254.169.254/latest",
        "https://[::1]/a",
        "https://localhost/a",
        "https://metadata.internal/a",
        "https://example.com:8443/a",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_image_is_fetched_from_public_https_alone(url: str) -> None:
    http = Http("https://api.bfl.ai", SecretStr(KEY), ProviderTimeouts())

    with pytest.raises(ForbiddenUrl):
        http.fetch(url, Turn(RecordingWatch(), 5), 1000)


@pytest.mark.parametrize("url", ["https://10.1.2.3/a", "http://169.254.169.254/latest", "ftp://127.0.0.1/a"])
def test_a_provider_on_this_machine_gets_nobody_to_another(table: Table, url: str) -> None:
    table.provider.polls = [Reply(body={"id": "x", "status": "Ready", "result": {"sample": url}})]

    table.seconds = 0.3

    with pytest.raises(TimedOut, match="not asked"):
        table.made()

    assert table.provider.count("/image") == 0


def test_a_image_without_end_is_not_taken(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_IMAGE_BYTES", 1000)

    with pytest.raises(InvalidOutput, match="more than makes sense"):
        table.made()

    assert table.provider.count("/image") == 3


def test_a_strange_address_to_ask_at_is_not_asked(table: Table) -> None:
    url = f"{table.provider.delivery_url}/v1/get_result?id=1"
    table.provider.submits = [Reply(body={"id": "a", "polling_url": url})]

    table.made()

    assert table.provider.count("/v1/get_result?id=a") == 1
    assert [asked.headers.get("x-key") for asked in table.provider.asked] == [KEY, KEY, None]


def test_a_redirect_is_not_followed(table: Table) -> None:
    table.provider.submits = [Reply(307, headers={"Location": f"{table.provider.delivery_url}/steal"})]

    with pytest.raises(UpstreamRejected):
        table.made()

    assert table.provider.count("/steal") == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_image_is_what_its_bytes_say(table: Table, kind: str) -> None:
    table.provider.downloads = [Reply(raw=image(kind, 48, 32), headers={"Content-Type": "text/html"})]

    (made,) = table.made(output_format="png")

    assert made.pixels.shape == (32, 48, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        image()[:200],
        image("JPEG")[:300],
        image("WEBP")[:60],
        b"\x89PNG\r\n\x1a\n",
        b"RIFF1234WEBP",
    ],
    ids=["empty", "html", "half a PNG", "half a JPEG", "half a WebP", "PNG's name", "WebP's name"],
)
def test_a_broken_image_is_none(data: bytes) -> None:
    with pytest.raises(InvalidOutput):
        decode_provider_image(data)


def test_a_image_of_too_many_pixels_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)

    with pytest.raises(InvalidOutput, match="64x64"):
        decode_provider_image(image())


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_bomb_is_an_error(side: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))

    with pytest.raises(InvalidOutput):
        decode_provider_image(
            b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        )


def test_credits_are_told(table: Table) -> None:
    assert table.backend.credits() == 123.5


@pytest.mark.parametrize(
    "reply",
    [refused(403), refused(500), Reply(raw=b"x"), Reply(body={}), Reply(body={"credits": "many"}), Reply(hang_up=True)],
)
def test_credits_that_cannot_be_told_are_no_failure(table: Table, reply: Reply) -> None:
    table.provider.credits = reply

    assert table.backend.credits() is None


def test_the_key_is_in_no_text_of_a_failure(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    table.provider.polls = [refused(500), Reply(hang_up=True), state("Error", details={"key": KEY})]

    with pytest.raises(JobFailure) as raised:
        table.made()

    assert KEY not in caplog.text
    assert KEY not in repr(raised.value)
    assert KEY not in repr(vars(table.backend))
