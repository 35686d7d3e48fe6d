"""Checks what must be true once the faults are over and all jobs have ended."""

import hashlib
import io
import re
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
from tests.stack import Stack
from tests.support.polling import wait_until
from worker.housekeeper.ownership import MARK

ENDED = [state for state in State if state.is_terminal]
#: Keys that may stay.
LASTING = (
    "job:",
    "jobs",
    "workers",
    "capabilities:",
    "pace:",
    "shares:",
    "_kombu.",
    "counts",
    "installation",
    "link-secret",
    "load-stats:",
    "models:",
    "residency",
    "uploads",
)


class Invariant:
    def __init__(self, stack: Stack) -> None:
        self.redis = redis.Redis.from_url(stack.settings["SD_REDIS_URL"], decode_responses=True)
        self.prefix = stack.prefix
        self._keys = Keys(stack.prefix)
        self._outputs = stack.outputs

    def wait_and_check(self, accepted: Collection[str]) -> None:
        """Wait until no work is left, then check all promises."""
        wait_until(lambda: not self.busy(), self.busy)
        violations = list(self.violations(accepted))
        assert not violations, "\n".join(violations)

    def busy(self) -> list[str]:
        """The keys that still hold work."""
        keys = [self._keys.state(State.QUEUED), self._keys.state(State.RUNNING), self._keys.leases]
        for backend in Backend:
            keys += [self._keys.queue(backend), self._keys.wake_ups(backend)]
        pipe = self.redis.pipeline(transaction=False)
        for key in keys:
            pipe.exists(key)
        return [key for key, exists in zip(keys, pipe.execute(), strict=True) if exists]

    def violations(self, accepted: Collection[str]) -> Iterator[str]:
        """`accepted` are the ids that callers have got."""
        yield from self._wrong_records(accepted)
        yield from self._wrong_files()
        yield from self._leftovers()
        yield from self._lasting_keys()

    def jobs(self) -> dict[str, Job]:
        """All recorded jobs."""
        ids = sorted(map(str, self.redis.zrange(self._keys.jobs, 0, -1)))
        pipe = self.redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hget(self._keys.record(job_id), "doc")
        return {job_id: Job.model_validate_json(doc) for job_id, doc in zip(ids, pipe.execute(), strict=True) if doc}

    def _wrong_records(self, accepted: Collection[str]) -> Iterator[str]:
        jobs = self.jobs()
        yield from (f"{job_id} is lost" for job_id in set(accepted) - jobs.keys())
        indexed = Counter[str]()
        for state in State:
            ids = list(map(str, self.redis.zrange(self._keys.state(state), 0, -1)))
            indexed.update(ids)
            yield from (f"{name} is not {state}" for name in ids if name not in jobs or jobs[name].state is not state)
        for job_id, job in jobs.items():
            if job.state not in ENDED:
                yield f"{job_id} is {job.state}"
            if self.redis.hget(self._keys.record(job_id), "state") != job.state or indexed[job_id] != 1:
                yield f"{job_id} is {job.state} and also in another state"
            events = self.redis.xrange(self._keys.events(job_id))
            if events and sum((fields or {})["type"] == "done" for _, fields in events) != 1:
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
                yield f"{path.name} has no record"

    def _leftovers(self) -> Iterator[str]:
        found = (path for path in self._outputs.rglob(".*") if path.name != MARK)
        staged = (path for path in (self._outputs / STAGING_FOLDER).glob("*") if not self._is_interrupted(path))
        return (f"{path.name} was not removed" for path in (*found, *staged) if path.is_file())

    def _is_interrupted(self, staged: Path) -> bool:
        """Whether it belongs to an attempt that was killed while it wrote the file; retention removes it later."""
        name = re.fullmatch(r"(?P<job_id>.{36})-\d+\.(?P<attempt>\d+)\..+", staged.name)
        return name is not None and int(name["attempt"]) < self.jobs()[name["job_id"]].attempt

    def _lasting_keys(self) -> Iterator[str]:
        yield from (f"{key} is not empty" for key in self.busy())
        for key in self.redis.scan_iter(f"{self.prefix}*", count=1000):
            known = key.removeprefix(self.prefix).startswith(LASTING)
            if not known and self.redis.ttl(key) == -1:
                yield f"{key} never expires"


def wrong_image(path: Path, size: int | None, sha256: str | None) -> Iterator[str]:
    try:
        data = path.read_bytes()
        PillowImage.open(io.BytesIO(data)).load()
    except OSError as error:
        yield f"{path.name} is not a valid image: {error}"
        return
    if (len(data), hashlib.sha256(data).hexdigest()) != (size, sha256):
        yield f"{path.name} differs from its record"
