"""Jobs as the clients of fal read them: results, and webhooks with them."""

import json
from typing import Any

from shared.access.links import Links
from shared.jobs.job import Job
from shared.jobs.snapshots import JobSnapshot


def result(job: Job, links: Links) -> dict[str, Any]:
    """The images of a finished job."""
    return {
        "images": [
            {
                "url": links.image(job.id, image.index),
                "content_type": image.media_type,
                "width": image.width,
                "height": image.height,
            }
            for image in job.images
            if not image.flagged
        ],
        "seed": job.seed,
        "prompt": job.request.prompt,
        "has_nsfw_concepts": [image.flagged for image in job.images],
        "timings": timings(job),
        "warnings": list(job.warnings),
    }


def timings(job: Job) -> dict[str, float]:
    if job.started_at is None or job.finished_at is None:
        return {}
    return {"inference": (job.finished_at - job.started_at).total_seconds()}


def failure(job: Job) -> dict[str, Any]:
    """How a job ended that has no images."""
    if job.error is None:
        return {"detail": "The job was cancelled.", "error_type": "cancelled"}
    return {"detail": job.error.detail, "error_type": job.error.code}


def webhook_body(snapshot: JobSnapshot, links: Links) -> bytes:
    job = snapshot.job
    body = {"request_id": job.id, "gateway_request_id": job.id}
    if job.images and job.error is None:
        return json.dumps({**body, "status": "OK", "payload": result(job, links)}).encode()
    failed = failure(job)
    return json.dumps({**body, "status": "ERROR", "error": failed["detail"], "payload": failed}).encode()
