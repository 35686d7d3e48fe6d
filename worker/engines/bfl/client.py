"""The API of Black Forest Labs: submit a task, poll it, download its image, and translate errors."""

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from shared.errors import (
    ContentRejected,
    ForbiddenUrl,
    JobFailure,
    ProviderResponseLost,
    UpstreamOutOfCredits,
    UpstreamRejected,
)
from shared.jobs.job import ProviderTask
from shared.net.outbound import HttpResponse
from worker.engines.bfl.http import Http, JobDeadline, NoResponse

logger = logging.getLogger(__name__)

NAME = "Black Forest Labs"
READY = "Ready"
#: Final statuses besides READY. All others, including future ones, mean that the task is still running.
FAILED: Mapping[str, type[JobFailure]] = {
    "Request Moderated": ContentRejected,
    "Content Moderated": ContentRejected,
    "Error": UpstreamRejected,
    "Failed": UpstreamRejected,
}
NOT_FOUND = "Task not found"
#: Responses to a submit that mean it was not accepted: client errors, and the two redirects that ask to repeat the same
#: request elsewhere (RFC 9110, 15.4.8 and 15.4.9).
NOT_ACCEPTED = frozenset({307, 308, *range(400, 500)})

#: How much of the provider's messages is passed on.
MAX_QUOTE = 300


@dataclass(frozen=True)
class Result:
    image_url: str
    """Valid for some minutes."""
    cost: float | None


class TaskRejected(Exception):
    """The request was certainly not accepted. It may be repeated after `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class ImageNotFound(Exception):
    """The image's URL does not work. Polling the task again may yield another URL."""


@dataclass(frozen=True)
class BflClient:
    """Not thread-safe: one job at a time."""

    http: Http

    def close(self) -> None:
        self.http.close()

    def submit(self, model: str, body: io.BytesIO) -> ProviderTask:
        """Spends money. Raises JobFailure, and TaskRejected if it spent nothing and may be repeated."""
        url, seconds = f"{self.http.base_url}/v1/{model}", self.http.timeouts.submit_seconds
        end = float("inf")

        def check() -> None:
            nonlocal end
            # Starts with the first bytes of the response: sending the images may take longer.
            end = min(end, time.monotonic() + seconds)
            if time.monotonic() > end:
                raise NoResponse("the response took too long", sent=True)

        # On a new connection: the provider may be closing an idle one right now, which looks like a lost response.
        self.http.close()
        try:
            response = self.http.call(url, seconds, check, body)
        except NoResponse as error:
            if not error.sent:
                raise TaskRejected(f"{NAME} cannot be reached ({error})") from None
            raise response_lost(f"the response was lost ({error})") from None
        if response.status == 429:
            raise TaskRejected(f"{NAME} accepts no more tasks now (429)", response.retry_after())
        if not 200 <= response.status < 300:
            raise self._submit_failure(response)
        task = response.json() or {}
        if not (isinstance(task.get("id"), str) and task["id"]):
            raise response_lost("the response has no task id")
        return ProviderTask(id=task["id"], polling_url=_text(task.get("polling_url")), cost=_number(task.get("cost")))

    def result(self, task: ProviderTask, deadline: JobDeadline, on_progress: Callable[[float], None]) -> Result:
        """Poll until the image is ready. Before the deadline, only a final status of the task ends this.

        Raises JobFailure, and what `deadline` and `on_progress` raise.
        """
        unknown_since = float("inf")
        for pause in self.http.timeouts.pauses():
            state = self._poll(task, deadline)
            status = _text(state.get("status"))
            if status == READY and (result := _result(state)) is not None:
                return result
            if status in FAILED:
                raise self._task_failure(status, state)
            unknown_since = min(unknown_since, time.monotonic()) if status == NOT_FOUND else float("inf")
            if time.monotonic() - unknown_since > self.http.timeouts.unknown_task_seconds:
                raise UpstreamRejected(f"{NAME} no longer knows the task. {deadline.billing}".rstrip())
            if (progress := _number(state.get("progress"))) is not None and 0 <= progress <= 1:
                on_progress(progress)
            deadline.pause(pause)
        raise AssertionError("pauses never end")

    def download(self, url: str, deadline: JobDeadline) -> bytes:
        """Without sending the key. Raises ImageNotFound, InvalidOutput, and what `deadline` raises."""
        try:
            response = self.http.fetch(url, deadline)
        except ForbiddenUrl as error:
            raise ImageNotFound(f"{NAME} returned a forbidden image URL. {error.detail}") from None
        if response.status != 200:
            raise ImageNotFound(f"The image could not be downloaded from {NAME}: HTTP {response.status}.")
        return response.body

    def credits(self) -> float | None:
        """The account's remaining credits; None if unknown."""
        try:
            response = self.http.call(f"{self.http.base_url}/v1/credits", self.http.timeouts.response_seconds)
        except NoResponse:
            return None
        return _number((response.json() or {}).get("credits")) if response.status == 200 else None

    def _polling_url(self, task: ProviderTask) -> str:
        """The task's own polling URL if the key may be sent there, or else the common one."""
        if task.polling_url and self.http.may_have_key(task.polling_url):
            return task.polling_url
        return f"{self.http.base_url}/v1/get_result?id={quote(task.id or '', safe='')}"

    def _poll(self, task: ProviderTask, deadline: JobDeadline) -> dict[str, Any]:
        """The state of the task; empty if the response is unreadable."""
        response = self.http.get(self._polling_url(task), deadline)
        state = response.json()
        if response.status == 404 and state is not None:
            state = {"status": NOT_FOUND}
        elif response.status != 200:
            error = f"HTTP {response.status}{self._reason(response)}"
            deadline.last_response = f"{NAME} does not return its status: {error}."
            logger.warning("task %s: %s", task.id, deadline.last_response)
            return {}
        if state is None:
            deadline.last_response = f"The responses of {NAME} are unreadable."
            return {}
        deadline.last_response = self._clean(f'Its last status was "{_text(state.get("status"))}"') + "."
        return state

    def _task_failure(self, status: str, state: Mapping[str, Any]) -> JobFailure:
        failure = FAILED[status]
        details = state.get("details")
        reasons = details.get("Moderation Reasons") if isinstance(details, dict) else None
        if failure is ContentRejected:
            reason = f" ({', '.join(map(str, reasons))})" if isinstance(reasons, list) and reasons else ""
            return failure(self._clean(f"{NAME} refused the content: {status}{reason}.") or None)
        more = f", {json.dumps(details)}" if details else ""
        return failure(self._clean(f"{NAME} ended the task: {status}{more}."))

    def _submit_failure(self, response: HttpResponse) -> JobFailure:
        reason = self._reason(response)
        match response.status:
            case 402:
                return UpstreamOutOfCredits(f"The account with {NAME} has too few credits{reason}.")
            case 401 | 403:
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{reason}.")
            # The response to a malformed key.
            case 422 if "api key" in reason.lower():
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{reason}.")
            case 404:
                return UpstreamRejected(f"{NAME} does not have this model{reason}.")
            case status if status not in NOT_ACCEPTED:
                return response_lost(f"HTTP {status}{reason}")
            case status:
                return UpstreamRejected(f"{NAME} refuses the request (HTTP {status}){reason}.")

    def _reason(self, response: HttpResponse) -> str:
        detail = self._clean(_readable_detail((response.json() or {}).get("detail")))
        return f": {detail}" if detail else ""

    def _clean(self, text: str) -> str:
        """The provider's message on one line, shortened, and without the key in case it quotes it."""
        plain = " ".join(text.replace(self.http.key.get_secret_value(), "***").split())
        return "".join(filter(str.isprintable, plain))[:MAX_QUOTE]


def response_lost(reason: str) -> ProviderResponseLost:
    return ProviderResponseLost(f"{NAME} may have charged for this: {reason}. It was not sent again.")


def _result(state: Mapping[str, Any]) -> Result | None:
    result = state.get("result")
    image_url = result.get("sample") if isinstance(result, dict) else None
    return Result(image_url, _number(state.get("cost"))) if isinstance(image_url, str) else None


def _readable_detail(detail: object) -> str:
    """FastAPI's `detail`: a sentence, or a list of errors by field."""
    if isinstance(detail, list):
        return "; ".join(_field(entry) for entry in detail if isinstance(entry, dict))
    return detail.rstrip(".") if isinstance(detail, str) else ""


def _field(entry: Mapping[str, Any]) -> str:
    place = entry.get("loc")
    name = ".".join(str(part) for part in place if part != "body") if isinstance(place, list) else ""
    return f"{name}: {entry.get('msg', 'wrong')}" if name else str(entry.get("msg", "wrong"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        return None
    return float(value)
