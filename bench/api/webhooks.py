"""How long after its image has its name a job's webhook arrives at a receiver that checks every signature."""

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
                scale.say(f"file to webhook: round {number} of {scale.rounds}")
                rounds.append([delay(stack, receiver) for _ in range(PER_ROUND)])
    yield from figures("file renamed to webhook received", rounds, P50_MS)


def delay(stack: Stack, receiver: Receiver) -> float:
    """In seconds, from the rename of the file to the whole request."""
    job = stack.api.post("/api/jobs", {"prompt": "x", "webhook_url": receiver.url}).json()
    arrival = receiver.next()
    arrival.verify()
    (image,) = stack.outputs.rglob(f"{job['id']}-0.png")
    # A rename is a change of the file's status, and the last one that it sees.
    return arrival.at - image.stat().st_ctime
