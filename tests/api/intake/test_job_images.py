"""Links to images of this service, as inputs of new jobs: it reads its files and sends no request to itself."""

import asyncio
import base64
import hashlib
import io
from asyncio import Event
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image, ImageChops

from api.edge.authentication import Caller
from api.intake.images.fetching import MAX_THREADS_PER_CALLER
from api.intake.images.job_images import JobImages
from api.services import Services
from shared.errors import JobNotFound
from shared.jobs.snapshots import JobSnapshot
from shared.observability.tracing import Tracing
from shared.settings.api import ApiSettings
from tests.api.clients import ALICE, UNKNOWN_ID, Client
from tests.api.images import encoded, half_mask, scene
from tests.api.problem import assert_problem
from tests.stack import Api, Stack

GONE = "is a link to an image that is gone, or that belongs to another key"


@pytest.fixture(scope="module")
def job(alice: Client) -> dict[str, Any]:
    return alice.generate(num_images=2, seed=7, width=96, height=64)


def scaled(client: Client, image: object, **fields: Any) -> requests.Response:
    """The image as a job gets it, without a model."""
    body = {"image": image, "resize_only": True, "output_width": 96, "output_height": 64, **fields}
    return client.request("POST", "/api/img2img", json={"prompt": "x", **body})


def errors(answer: requests.Response) -> list[tuple[str, str]]:
    assert_problem(answer, 422, "invalid-request")
    return [(error["pointer"], error["detail"]) for error in answer.json()["errors"]]


def reference_of(image: bytes) -> str:
    return f"sha256:{hashlib.sha256(image).hexdigest()}"


def unsigned(url: str) -> str:
    return url.partition("?")[0]


def pixels(client: Client, url: str) -> Image.Image:
    address = urlsplit(url)
    return Image.open(io.BytesIO(client.get(address.path, params=address.query).content)).convert("RGB")


@pytest.mark.parametrize("index", [0, 1])
def test_the_link_to_an_image_is_an_input_of_the_next_job(alice: Client, job: dict[str, Any], index: int) -> None:
    url = job["images"][index]["url"]

    answer = scaled(alice, url)

    assert answer.status_code == 200, answer.text
    result = answer.json()["images"][0]["url"]
    assert ImageChops.difference(pixels(alice, result), pixels(alice, url)).getbbox() is None


@pytest.mark.parametrize("address", ["http://images.example.com", "https://10.0.0.7:8443/behind/a/proxy"])
def test_it_works_with_any_address_of_this_service(alice: Client, job: dict[str, Any], address: str) -> None:
    assert scaled(alice, f"{address}/api/jobs/{job['id']}/images/0").status_code == 200


def test_several_images_and_a_mask_may_be_links(alice: Client, job: dict[str, Any]) -> None:
    first, second = (image["url"] for image in job["images"])

    assert alice.generate(image=[first], mask=second, strength=0.5)["state"] == "succeeded"


def test_a_key_may_use_the_images_of_another_only_with_a_signed_link(bob: Client, job: dict[str, Any]) -> None:
    url = job["images"][0]["url"]
    forged = url[:-4] + ("0000" if url[-4:] != "0000" else "1111")
    of_the_other_image = url.replace("/images/0?", "/images/1?")

    refused = [scaled(bob, link) for link in (unsigned(url), forged, of_the_other_image)]

    assert scaled(bob, url).status_code == 200
    for answer in refused:
        assert errors(answer) == [("/image", GONE)]


def test_an_image_of_another_key_is_refused_like_an_unknown_one(bob: Client, job: dict[str, Any]) -> None:
    url = unsigned(job["images"][0]["url"])
    foreign, unknown = (scaled(bob, link) for link in (url, url.replace(job["id"], UNKNOWN_ID)))

    assert foreign.content == unknown.content


def test_a_withheld_or_missing_image_is_refused_at_its_field(alice: Client, job: dict[str, Any]) -> None:
    withheld = alice.generate(num_images=2, metadata={"simulate": {"flag": 1}})
    links = (
        unsigned(job["images"][0]["url"]).replace(job["id"], withheld["id"]),
        f"http://127.0.0.1/api/jobs/{job['id']}/images/9",
    )

    for link in links:
        body = {"prompt": "x", "image": [job["images"][0]["url"], link]}
        assert errors(alice.request("POST", "/api/img2img", json=body)) == [("/image/1", GONE)]


def test_links_of_one_caller_are_read_a_few_at_a_time_and_those_of_others_beside_them(
    redis_url: str, tmp_path: Path
) -> None:
    """A short request may copy many large files."""
    alice, bob = (Caller(owner=name, visible_owner=name, client_id=name) for name in ("alice", "bob"))
    link = f"http://localhost/api/jobs/{UNKNOWN_ID}/images/0"

    async def reading() -> tuple[list[str | None], ...]:
        settings = ApiSettings(redis_url=redis_url, output_dir=tmp_path, backends="null")
        services, readers, bob_reads, end = Services(settings, Tracing()), list[str | None](), Event(), Event()

        async def read_job(_: str, owner: str | None) -> JobSnapshot:
            readers.append(owner)
            if owner == "bob":
                bob_reads.set()
            await end.wait()
            raise JobNotFound

        services.uploads.job_images = JobImages(services.image_store, read_job, services.link_secret)
        async with services.uploads.open_request() as uploads:
            fetches = [asyncio.ensure_future(uploads.fetch(link, "/image", 10, caller)) for caller in (alice,) * 20]
            fetches.append(asyncio.ensure_future(uploads.fetch(link, "/image", 10, bob)))
            async with asyncio.timeout(30):
                await bob_reads.wait()
            at_once = list(readers)
            end.set()
            await asyncio.gather(*fetches, return_exceptions=True)
        return at_once, readers

    at_once, all_readers = asyncio.run(reading())

    assert Counter(at_once) == {"alice": MAX_THREADS_PER_CALLER, "bob": 1}
    assert Counter(all_readers) == {"alice": 20, "bob": 1}


def test_a_form_may_name_addresses_beside_files(alice: Client, job: dict[str, Any]) -> None:
    image, mask = encoded(scene()), encoded(half_mask())
    parts: list[tuple[str, Any]] = [
        ("prompt", (None, "x")),
        ("image", (None, job["images"][0]["url"])),
        ("image", ("in.png", image)),
        ("image", (None, "")),
        ("mask", (None, f"data:image/png;base64,{base64.b64encode(mask).decode()}")),
    ]

    answer = alice.request("POST", "/api/img2img", files=parts)

    assert answer.status_code == 200, answer.text
    request = answer.json()["request"]
    assert request["image"] == [f"sha256:{job['images'][0]['sha256']}", reference_of(image)]
    assert request["mask"] == reference_of(mask)


def test_without_keys_every_link_works(api: Api, finished: dict[str, Any]) -> None:
    answer = api.post("/api/txt2img", {"prompt": "x", "image": finished["images"][0]["url"]})

    assert answer.status_code == 200, answer.text


def test_clients_of_other_protocols_may_send_links(keyed: Stack, job: dict[str, Any]) -> None:
    body = {"prompt": "x", "image_url": job["images"][0]["url"]}

    answer = requests.post(
        f"{keyed.api.url}/fal/run/null", json=body, headers={"Authorization": f"Key {ALICE}"}, timeout=30
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["images"]
