"""What must be true when the faults are over and every job has ended."""

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import redis
from PIL import Image as PillowImage

from shared.jobs.job import Job
from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.storage.images import image_name
from shared.storage.object_store import STAGING_FOLDER
from tests.polling import wait_until
from tests.stack import Stack
from worker.housekeeper.ownership import MARK

ENDED = [state for state in State if state.is_terminal]
#: What may stay for good. `unacked` is the broker's own note of messages whose worker was killed; it sends them again
#: when its timeout has passed, and nothing comes of them.
LASTING = (
    "job:",
    "jobs",
    "workers",
    "capabilities:",
    "pace:",
    "shares:",
    "_kombu.",
    "unacked",
    "counts",
    "installation",
    "link-secret",
    "uploads",
)


class Invariant:
    def __init__(self, stack: Stack) -> None:
        self.redis = redis.Redis.from_url(stack.settings["SD_REDIS_URL"], decode_responses=True)
        self.prefix = stack.prefix
        self._keys = Keys(stack.prefix)
        self._outputs = stack.outputs

    def hold(self, accepted: Collection[str]) -> None:
        """Wait until nothing is left to do, then check."""
        wait_until(lambda: not self.busy(), self.busy)
        found = list(self.violations(accepted))
        assert not found, "\n".join(found)

    def busy(self) -> list[str]:
        """Keys that hold work; none once all is done."""
        keys = [self._keys.state(State.QUEUED), self._keys.state(State.RUNNING), self._keys.leases]
        for backend in Backend:
            keys += [self._keys.queue(backend), self._keys.wake_ups(backend)]
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.exists(key)
        return [key for key, there in zip(keys, pipe.execute(), strict=True) if there]

    def violations(self, accepted: Collection[str]) -> Iterator[str]:
        """`accepted` are the ids that callers were given."""
        yield from self._wrong_records(accepted)
        yield from self._wrong_files()
        yield from self._leftovers()
        yield from self._lasting_keys()

    def jobs(self) -> dict[str, Job]:
        """Every job on record."""
        ids = sorted(self.redis.zrange(self._keys.jobs, 0, -1))
        pipe = self.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hget(self._keys.record(job_id), "doc")
        return {job_id: Job.model_validate_json(doc) for job_id, doc in zip(ids, pipe.execute(), strict=True) if doc}

    def _wrong_records(self, accepted: Collection[str]) -> Iterator[str]:
        jobs = self.jobs()
        yield from (f"{job_id} is lost" for job_id in set(accepted) - jobs.keys())
        indexed = Counter[str]()
        for state in State:
            ids = self.redis.zrange(self._keys.state(state), 0, -1)
            indexed.update(ids)
            yield from (f"{name} is not {state}" for name in ids if name not in jobs or jobs[name].state is not state)
        for job_id, job in jobs.items():
            if job.state not in ENDED:
                yield f"{job_id} is {job.state}"
            if self.redis.hget(self._keys.record(job_id), "state") != job.state or indexed[job_id] != 1:
                yield f"{job_id} is {job.state} and something else"
            events = self.redis.xrange(self._keys.events(job_id))
            if events and sum(fields["type"] == "done" for _, fields in events) != 1:
                yield f"{job_id} ended more than once"

    def _wrong_files(self) -> Iterator[str]:
        expected = dict[Path, str]()
        for job in self.jobs().values():
            for image in job.images:
                path = self._outputs / image_name(job, image.index)
                expected[path] = job.id
                yield from wrong_image(path, image.bytes, image.sha256)
        for path in self._outputs.rglob("*"):
            if (
                path.is_file()
                and not path.name.startswith(".")
                and path.parent.name != STAGING_FOLDER
                and path not in expected
            ):
                yield f"{path.name} is not on record"

    def _leftovers(self) -> Iterator[str]:
        found = (path for path in self._outputs.rglob(".*") if path.name != MARK)
        staged = (self._outputs / STAGING_FOLDER).glob("*")
        return (f"{path.name} was left behind" for path in (*found, *staged) if path.is_file())

    def _lasting_keys(self) -> Iterator[str]:
        yield from (f"{key} is not empty" for key in self.busy())
        for key in self.redis.scan_iter(f"{self.prefix}*", count=1000):
            known = key.removeprefix(self.prefix).startswith(LASTING)
            if not known and self.redis.ttl(key) == -1:
                yield f"{key} stays for ever"


def wrong_image(path: Path, size: int, sha256: str) -> Iterator[str]:
    try:
        data = path.read_bytes()
        PillowImage.open(io.BytesIO(data)).load()
    except OSError as error:
        yield f"{path.name} is no image: {error}"
        return
    if (len(data), hashlib.sha256(data).hexdigest()) != (size, sha256):
        yield f"{path.name} is not the one on record"
