"""The samples in docs/webhooks.md do what they say."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import SECRET, Arrival, Receiver

DOCUMENT = Path(__file__).parents[3] / "docs" / "webhooks.md"
RUN = """
const { secret, headers, body } = JSON.parse(require("node:fs").readFileSync(0));
console.log(verify(secret, headers, Buffer.from(body)));
"""


def sample(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def python(arrival: Arrival) -> bool:
    module: dict[str, Callable[..., bool]] = {}
    exec(sample("python"), module)  # noqa: S102 - our own document
    return module["verify"](SECRET, arrival.headers, arrival.body)


def javascript(arrival: Arrival) -> bool:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node here")
    message = json.dumps({"secret": SECRET, "headers": arrival.headers, "body": arrival.body.decode()})
    run = subprocess.run(
        [node, "-e", sample("javascript") + RUN], input=message, capture_output=True, text=True, check=True
    )
    return run.stdout == "true\n"


@pytest.mark.parametrize("verify", [python, javascript])
def test_the_documented_samples_verify_signatures(
    outbox: OutboxHarness, receiver: Receiver, verify: Callable[[Arrival], bool]
) -> None:
    with outbox.sending(outbox.sender([receiver.origin])):
        outbox.done(webhook_url=receiver.url, metadata={"name": "ä"})
        arrival = receiver.next()

    assert verify(arrival)
    assert not verify(replace(arrival, body=arrival.body.replace(b"succeeded", b"cancelled")))
    old = {**arrival.headers, "webhook-timestamp": str(int(arrival.at) - 3600)}
    assert not verify(replace(arrival, headers=old))
