"""What is submitted to the provider, and what the job record holds before and after."""

import io
import socket
import threading

import pytest
from pydantic import SecretStr

from shared.errors import ProviderResponseLost, UpstreamRejected
from shared.jobs.job import ProviderTask as Task
from shared.models import bfl
from tests.worker.engines.bfl.conftest import QUICK, Stop, Table, stop_after
from tests.worker.engines.bfl.provider import KEY, ReceivedRequest, Reply, refused
from tests.worker.recording_watch import RecordingWatch
from worker.engines.bfl.http import Http, NoResponse
from worker.engines.bfl.requests import aspect_ratio


def submitted_body(table: Table, **fields: object) -> dict[str, object]:
    table.made(**fields)
    body: dict[str, object] = table.provider.posts[0].body
    return body


def test_an_image_takes_one_submit(table: Table) -> None:
    (made,) = table.made()

    assert made.pixels.shape == (64, 64, 3)
    assert made.seed == 7
    assert [request.path for request in table.provider.posts] == ["/v1/flux-2-pro-preview"]


@pytest.mark.parametrize("model", [name for name, own in bfl.MODELS.items() if not own.requires])
def test_every_model_gets_the_fields_that_it_supports(table: Table, model: str) -> None:
    own = bfl.MODELS[model]
    body = submitted_body(table, bfl_model=model, output_format="webp", num_inference_steps=20, guidance_scale=2.0)

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
def test_an_aspect_ratio_consists_of_small_numbers(width: int, height: int, ratio: str) -> None:
    assert aspect_ratio(width, height) == ratio


def test_each_of_several_images_is_a_task_with_its_own_seed(table: Table) -> None:
    images = table.made(num_images=3)

    assert [made.seed for made in images] == [7, 8, 9]
    assert [request.body["seed"] for request in table.provider.posts] == [7, 8, 9]


def test_each_submit_is_sent_over_a_new_connection(table: Table) -> None:
    """One that is idle may be closed meanwhile, which looks like a lost response."""
    table.made(num_images=2)

    requests = [request for request in table.provider.requests if request.path.startswith("/v1/")]
    for number, request in enumerate(requests):
        if request.method == "POST":
            assert request.connection not in {earlier.connection for earlier in requests[:number]}


def test_every_2xx_response_to_a_submit_is_a_success(table: Table) -> None:
    table.provider.submits = [Reply(202, body={"id": "a", "polling_url": f"{table.provider.api_url}/p"})]

    assert len(table.made()) == 1


def test_a_rejected_submit_is_repeated(table: Table) -> None:
    table.provider.submits = [refused(429), table.provider.accept]
    watch = RecordingWatch()

    table.made(watch)

    assert len(table.provider.posts) == 2
    assert watch.saved_provider_tasks[:3] == [(Task(),), (), (Task(),)]


@pytest.mark.parametrize(("reads", "sent"), [(1_000, False), (6_000_000, True)])
def test_a_submit_may_have_been_accepted_once_it_was_sent_completely(reads: int, sent: bool) -> None:
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
            Http(url, SecretStr(KEY), QUICK).call(url, 2.0, body=body)
        server.join()

    assert raised.value.sent is sent


def test_a_job_is_not_stopped_during_a_submit(table: Table) -> None:
    table.provider.submits = [Reply(seconds=0.3, body={"id": "a", "polling_url": f"{table.provider.api_url}/p"})]
    watch = RecordingWatch(check=stop_after(1))

    with pytest.raises(Stop):
        table.made(watch)

    assert [task.id for task in watch.provider_tasks] == ["a"]


def test_a_redirect_of_a_submit_is_not_followed(table: Table) -> None:
    table.provider.submits = [Reply(307, headers={"Location": f"{table.provider.delivery_url}/steal"})]

    with pytest.raises(UpstreamRejected):
        table.made()

    assert table.provider.count("/steal") == 0


def test_a_task_is_saved_before_it_is_submitted_and_before_it_is_polled(table: Table) -> None:
    watch = RecordingWatch()
    seen: list[tuple[str, tuple[Task, ...]]] = []

    def note(request: ReceivedRequest) -> Reply:
        seen.append((request.method, watch.provider_tasks))
        return (table.provider.accept if request.method == "POST" else table.provider.ready())(request)

    table.provider.submits, table.provider.polls = [note], [note]

    table.made(watch)

    task = Task(id="task-1", polling_url=f"{table.provider.api_url}/v1/get_result?id=task-1", cost=3.0)
    assert seen == [("POST", (Task(),)), ("GET", (task,))]


def test_the_final_price_is_saved(table: Table) -> None:
    table.provider.polls = [table.provider.ready(cost=4.5)]
    watch = RecordingWatch()

    table.made(watch)

    assert [task.cost for task in watch.provider_tasks] == [4.5]


def test_a_task_of_an_earlier_attempt_is_polled_and_not_submitted_again(table: Table) -> None:
    old = Task(id="old", polling_url=f"{table.provider.api_url}/v1/get_result?id=old", cost=3.0)

    images = table.made(RecordingWatch(provider_tasks=(old,)), num_images=2)

    assert len(images) == 2
    assert [request.body["seed"] for request in table.provider.posts] == [8]
    assert table.provider.count("/v1/get_result?id=old") == 1


def test_saving_a_final_price_keeps_the_other_tasks(table: Table) -> None:
    url = f"{table.provider.api_url}/v1/get_result?id="
    old = tuple(Task(id=name, polling_url=url + name, cost=3.0) for name in ("a", "b"))
    table.provider.polls = [table.provider.ready(cost=4.5)]
    watch = RecordingWatch(provider_tasks=old)

    assert len(table.made(watch, num_images=2)) == 2
    assert table.provider.posts == []
    assert [task.cost for task in watch.provider_tasks] == [4.5, 4.5]


def test_a_task_whose_worker_died_before_the_response_is_not_submitted_again(table: Table) -> None:
    with pytest.raises(ProviderResponseLost, match="may have charged"):
        table.made(RecordingWatch(provider_tasks=(Task(),)))

    assert table.provider.requests == []
