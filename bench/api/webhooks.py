"""The time from an image on disk to the webhook at a receiver that verifies signatures."""

from collections.abc import Iterator

from bench.api.delivery import PER_ROUND, figures
from bench.figures import Figure, Scale
from bench.service import service
from tests.shared.webhooks.receiver import SECRET, Receiver, receiving
from tests.stack import Stack

P50_MS = 20


def measure(scale: Scale) -> Iterator[Figure]:
    with receiving() as receiver:
        settings = {"SD_WEBHOOK_ALLOW": receiver.origin, "SD_WEBHOOK_SECRET": SECRET}
        with service("null", **settings) as stack:
            stack.start_housekeeper()
            rounds = []
            for number in range(1, scale.rounds + 1):
                scale.show_progress(f"file to webhook: round {number} of {scale.rounds}")
                rounds.append([delay(stack, receiver) for _ in range(PER_ROUND)])
    yield from figures("file renamed to webhook received", rounds, P50_MS)


def delay(stack: Stack, receiver: Receiver) -> float:
    """Seconds from the rename of the file to the whole request."""
    job = stack.api.post("/api/jobs", {"prompt": "x", "webhook_url": receiver.url}).json()
    arrival = receiver.next()
    arrival.verify()
    (image,) = stack.outputs.rglob(f"{job['id']}-0.png")
    # The rename is the last change of the file's status (ctime).
    return arrival.at - image.stat().st_ctime
