"""Thousands of job records within a moment."""

import os
from datetime import UTC, datetime

import redis

from shared.jobs.job import Job
from shared.jobs.snapshots import dump_job
from tests.stack import Stack


def copy_job(stack: Stack, job_id: str, number: int, prompt: str) -> None:
    """Store newer jobs like an existing one, images included, with another prompt. `{}` in it becomes their number."""
    files = stack.find(f"{job_id}-*")
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"], decode_responses=True) as client:
        record = client.hgetall(f"{stack.prefix}job:{job_id}")
        original = Job.model_validate_json(record["doc"])
        pipeline = client.pipeline(transaction=False)
        for index in range(number):
            request = original.request.model_copy(update={"prompt": prompt.format(index)})
            # Ids follow the time, which goes on: so many jobs take seconds.
            new_id = Job.new(request, original.backend, datetime.now(UTC)).id
            job = original.model_copy(update={"request": request, "id": new_id})
            for file in files:
                os.link(file, file.with_name(file.name.replace(job_id, job.id)))
            pipeline.hset(f"{stack.prefix}job:{job.id}", mapping={**record, "doc": dump_job(job)})
            for index_name in ("jobs", f"jobs:state:{record['state']}", f"jobs:backend:{record['backend']}"):
                pipeline.zadd(f"{stack.prefix}{index_name}", {job.id: 0})
        pipeline.execute()
