"""Jobs as the clients of Replicate read them: predictions, in answers and in webhooks."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from shared.access.links import Links
from shared.jobs.job import Job, Progress
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State

#: The owner of models whose names have none.
OWNER = "imagegen"
_STATUS = {
    State.QUEUED: "starting",
    State.RUNNING: "processing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "canceled",
}
#: Fields of the request that are not part of the input.
_NOT_INPUT = {"webhook_url", "webhook_events", "webhook_inline_images", "label", "metadata", "fit_size"}
_BAR_WIDTH = 10


def prediction(snapshot: JobSnapshot, base_url: str, output: Sequence[str] | None) -> dict[str, Any]:
    """`output` has an address of each image: https: or data:, because clients make files of these alone."""
    job, address = snapshot.job, f"{base_url}/v1/predictions/{snapshot.job.id}"
    name = job.model or job.request.requested_model or "default"
    return {
        "id": job.id,
        "model": model_path(name),
        "version": version_id(name, job.model_revision),
        "status": _STATUS[job.state],
        "input": job.request.to_json(exclude=_NOT_INPUT),
        "output": list(output) if output is not None else None,
        "logs": _logs(job, snapshot.progress),
        "error": job.error.detail if job.error else None,
        "metrics": _metrics(job),
        "created_at": job.created_at.isoformat(),
        "started_at": _time(job.started_at),
        "completed_at": _time(job.finished_at),
        "data_removed": False,
        "urls": {"get": address, "cancel": f"{address}/cancel", "stream": f"{address}/stream"},
    }


def image_links(job: Job, links: Links) -> list[str] | None:
    """None until there are images."""
    return [links.image(job.id, image.index) for image in job.images if not image.flagged] or None


def webhook_body(snapshot: JobSnapshot, links: Links) -> bytes:
    """The prediction, with links to its images."""
    return json.dumps(prediction(snapshot, links.base_url, image_links(snapshot.job, links))).encode()


def model_path(name: str) -> str:
    """`owner/name`, which clients require."""
    return name if "/" in name else f"{OWNER}/{name}"


def model_name(path: str) -> str:
    """The name of the model with this path."""
    return path.removeprefix(f"{OWNER}/")


def version_id(name: str, revision: str | None) -> str:
    """Changes with the files of the model."""
    return sha256(f"{name}@{revision or ''}".encode()).hexdigest()


def progress_line(progress: Progress) -> str:
    """As tqdm writes it, which clients read."""
    bar = "█" * round(progress.fraction * _BAR_WIDTH)
    return f"{round(progress.fraction * 100)}%|{bar:<{_BAR_WIDTH}}| {progress.step}/{progress.steps}"


def _logs(job: Job, progress: Progress | None) -> str:
    """The warnings, then a line of progress."""
    lines = [f"warning: {warning}" for warning in job.warnings]
    if job.state is State.SUCCEEDED and job.request.num_inference_steps:
        progress = Progress(step=job.request.num_inference_steps, steps=job.request.num_inference_steps, fraction=1)
    if progress is not None:
        lines.append(progress_line(progress))
    return "\n".join(lines)


def _metrics(job: Job) -> Mapping[str, float]:
    if job.finished_at is None:
        return {}
    metrics = {"total_time": (job.finished_at - job.created_at).total_seconds()}
    if job.started_at is not None:
        metrics["predict_time"] = (job.finished_at - job.started_at).total_seconds()
    return metrics


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
