"""Black Forest Labs over HTTP: send a task, ask after it, fetch its image; and what their answers mean to a job."""

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydantic import SecretStr

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
from worker.engines.bfl.http import Http, NoResponse, ProviderTimeouts, Turn

logger = logging.getLogger(__name__)

NAME = "Black Forest Labs"
READY = "Ready"
#: What ends a task otherwise. Every other status, those that are yet to come among them, means that it goes on.
FAILED: Mapping[str, type[JobFailure]] = {
    "Request Moderated": ContentRejected,
    "Content Moderated": ContentRejected,
    "Error": UpstreamRejected,
    "Failed": UpstreamRejected,
}
NOT_FOUND = "Task not found"
#: Statuses with which whoever answers a submit says that it was not taken: all of its own, and two redirects that ask
#: for the same again elsewhere (RFC 9110, 15.4.8 and 15.4.9).
NOT_TAKEN = frozenset({307, 308, *range(400, 500)})

MAX_ANSWER_BYTES = 1 << 20
MAX_IMAGE_BYTES = 64 << 20
#: How much of their own words is passed on.
MAX_QUOTE = 300


@dataclass(frozen=True)
class Result:
    sample: str
    """Where the image is, for some minutes."""
    cost: float | None


class TaskRejected(Exception):
    """The request was certainly not taken, and may be sent again after `retry_after` seconds."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class TaskNotFound(Exception):
    """The image does not lie where they said; another address of it may be had by asking again."""


class BflClient:
    """For one job at a time."""

    def __init__(self, base_url: str, key: SecretStr, patience: ProviderTimeouts) -> None:
        self._base = base_url
        self._key = key
        self._patience = patience
        self._http = Http(base_url, key, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.close()

    def submit(self, model: str, body: io.BytesIO) -> ProviderTask:
        """Spends money. Raises TaskRejected where it certainly did not and may be tried again, and JobFailure."""
        url, seconds = f"{self._base}/v1/{model}", self._patience.submit_seconds
        end = float("inf")

        def check() -> None:
            nonlocal end
            # From its first bytes on: before them there is the line's own time to send the images.
            end = min(end, time.monotonic() + seconds)
            if time.monotonic() > end:
                raise NoResponse("the answer took too long", sent=True)

        # On a new connection: one that was idle may be closed by them just now, which looks like a lost answer.
        self._http.close()
        try:
            answer = self._http.call("POST", url, seconds, MAX_ANSWER_BYTES, check, body)
        except NoResponse as error:
            if not error.sent:
                raise TaskRejected(f"{NAME} cannot be reached ({error})") from None
            raise lost(f"the answer was lost ({error})") from None
        if answer.status == 429:
            raise TaskRejected(f"{NAME} takes no more work now (429)", answer.retry_after())
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        task = answer.json() or {}
        if not (isinstance(task.get("id"), str) and task["id"]):
            raise lost("the answer named no task")
        return ProviderTask(id=task["id"], polling_url=_text(task.get("polling_url")), cost=_number(task.get("cost")))

    def result(self, task: ProviderTask, turn: Turn, on_progress: Callable[[float], None]) -> Result:
        """Ask until the image is ready. Only what they say of the task itself ends this before the time limit.

        Raises JobFailure, and what `turn` and `on_progress` raise.
        """
        missed_since = float("inf")
        for pause in self._patience.pauses():
            told = self._ask(task, turn)
            status = _text(told.get("status"))
            if status == READY and (result := _result(told)) is not None:
                return result
            if status in FAILED:
                raise self._failure(status, told)
            missed_since = min(missed_since, time.monotonic()) if status == NOT_FOUND else float("inf")
            if time.monotonic() - missed_since > self._patience.unknown_seconds:
                raise UpstreamRejected(f"{NAME} does not know the task any more. {turn.known}".rstrip())
            if (progress := _number(told.get("progress"))) is not None and 0 <= progress <= 1:
                on_progress(progress)
            turn.pause(pause)
        raise AssertionError("pauses never end")

    def download(self, url: str, turn: Turn) -> bytes:
        """Fetch an image; the key stays here. Raises TaskNotFound, InvalidOutput, and what `turn` raises."""
        try:
            answer = self._http.fetch(url, turn, MAX_IMAGE_BYTES)
        except ForbiddenUrl as error:
            raise TaskNotFound(f"{NAME} named an address of the image that is not asked. {error.detail}") from None
        if answer.status != 200:
            raise TaskNotFound(f"The image could not be fetched from {NAME}: HTTP {answer.status}.")
        return answer.body

    def credits(self) -> float | None:
        """What the account still has; None where that cannot be told."""
        try:
            seconds = self._patience.answer_seconds
            url = f"{self._base}/v1/credits"
            answer = self._http.call("GET", url, seconds, MAX_ANSWER_BYTES, lambda: None)
        except NoResponse:
            return None
        return _number((answer.json() or {}).get("credits")) if answer.status == 200 else None

    def _address(self, task: ProviderTask) -> str:
        """Where to ask after the task: where they said, if that is theirs, else where all tasks can be asked after."""
        if task.polling_url and self._http.may_have_key(task.polling_url):
            return task.polling_url
        return f"{self._base}/v1/get_result?id={quote(task.id or '', safe='')}"

    def _ask(self, task: ProviderTask, turn: Turn) -> dict[str, Any]:
        """What they tell of a task; empty where that cannot be read."""
        answer = self._http.get(self._address(task), turn, MAX_ANSWER_BYTES)
        told = answer.json()
        if answer.status == 404 and told is not None:
            told = {"status": NOT_FOUND}
        elif answer.status != 200:
            turn.seen = f"{NAME} does not tell of it: HTTP {answer.status}{self._because(answer)}."
            logger.warning("task %s: %s", task.id, turn.seen)
            return {}
        if told is None:
            turn.seen = f"{NAME} gives answers that cannot be read."
            return {}
        turn.seen = self._clean(f'Its last status was "{_text(told.get("status"))}"') + "."
        return told

    def _failure(self, status: str, told: Mapping[str, Any]) -> JobFailure:
        failure = FAILED[status]
        details = told.get("details")
        reasons = details.get("Moderation Reasons") if isinstance(details, dict) else None
        if failure is ContentRejected:
            why = f" ({', '.join(map(str, reasons))})" if isinstance(reasons, list) and reasons else ""
            return failure(self._clean(f"{NAME} refused the content: {status}{why}.") or None)
        more = f", {json.dumps(details)}" if details else ""
        return failure(self._clean(f"{NAME} ended the task: {status}{more}."))

    def _refusal(self, answer: HttpResponse) -> JobFailure:
        """What an answer to a submit means that names no task."""
        because = self._because(answer)
        match answer.status:
            case 402:
                return UpstreamOutOfCredits(f"The account with {NAME} has too few credits{because}.")
            case 401 | 403:
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{because}.")
            # Also their answer to a key that cannot be one.
            case 422 if "api key" in because.lower():
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{because}.")
            case 404:
                return UpstreamRejected(f"{NAME} does not have this model{because}.")
            case status if status not in NOT_TAKEN:
                return lost(f"HTTP {status}{because}")
            case status:
                return UpstreamRejected(f"{NAME} refuses the request (HTTP {status}){because}.")

    def _because(self, answer: HttpResponse) -> str:
        told = self._clean(_words((answer.json() or {}).get("detail")))
        return f": {told}" if told else ""

    def _clean(self, text: str) -> str:
        """Their words, shortened, in one line, and without the key if they quoted it."""
        plain = " ".join(text.replace(self._key.get_secret_value(), "***").split())
        return "".join(filter(str.isprintable, plain))[:MAX_QUOTE]


def lost(why: str) -> ProviderResponseLost:
    return ProviderResponseLost(f"{NAME} may have charged for this: {why}. It was not sent again.")


def _result(told: Mapping[str, Any]) -> Result | None:
    result = told.get("result")
    sample = result.get("sample") if isinstance(result, dict) else None
    return Result(sample, _number(told.get("cost"))) if isinstance(sample, str) else None


def _words(detail: object) -> str:
    """FastAPI's `detail`: a sentence, or a list of what is wrong where."""
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
