"""Black Forest Labs over HTTP: send a task, ask after it, fetch its picture; and what their answers mean to a job."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from shared.errors import (
    AnswerLost,
    ContentRejected,
    ForbiddenUrl,
    InvalidOutput,
    JobFailure,
    UpstreamOutOfCredits,
    UpstreamRejected,
    UpstreamUnavailable,
)
from shared.schemas import Provider
from shared.urls import Answer
from worker.backends.bfl_http import Http, NoAnswer, Patience, Turn

NAME = "Black Forest Labs"
#: Statuses of a task that goes on, and what the others mean. `Ready` is neither.
GOES_ON = frozenset({"Pending", "Reasoning", "Generating"})
FAILED: Mapping[str, type[JobFailure]] = {
    "Request Moderated": ContentRejected,
    "Content Moderated": ContentRejected,
    "Error": UpstreamRejected,
    "Failed": UpstreamRejected,
}
#: A task that was just sent may not have reached the server that is asked after it.
NOT_FOUND, MOST_NOT_FOUND = "Task not found", 3

MAX_ANSWER_BYTES = 1 << 20
MAX_PICTURE_BYTES = 64 << 20
#: How much of their own words is passed on.
MAX_QUOTE = 300


@dataclass(frozen=True)
class Result:
    sample: str
    """Where the picture is, for some minutes."""
    cost: float | None


class TurnedAway(Exception):
    """The request was certainly not taken, and may be sent again after `retry_after` seconds."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Client:
    """For one job at a time."""

    def __init__(self, base_url: str, key: SecretStr, patience: Patience) -> None:
        self._base = base_url
        self._key = key
        self._patience = patience
        self._http = Http(base_url, key, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.close()

    def submit(self, model: str, body: Mapping[str, Any]) -> Provider:
        """Spends money. Raises TurnedAway where it certainly did not and may be tried again, and JobFailure."""
        url, seconds = f"{self._base}/v1/{model}", self._patience.submit_seconds
        end = float("inf")

        def check() -> None:
            nonlocal end
            # From its first bytes on: before them there is the line's own time to send the pictures.
            end = min(end, time.monotonic() + seconds)
            if time.monotonic() > end:
                raise NoAnswer("the answer took too long", sent=True)

        # On a new connection: one that was idle may be closed by them just now, which looks like a lost answer.
        self._http.close()
        try:
            answer = self._http.call("POST", url, seconds, MAX_ANSWER_BYTES, check, body)
        except NoAnswer as error:
            if not error.sent:
                raise TurnedAway(f"{NAME} cannot be reached") from None
            raise _lost(f"the answer was lost ({error})") from None
        except InvalidOutput:
            raise _lost("the answer was too long") from None
        if answer.status in (429, 503):
            raise TurnedAway(f"{NAME} takes no more work now ({answer.status})", answer.retry_after())
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        task = answer.json() or {}
        if not (isinstance(task.get("id"), str) and isinstance(task.get("polling_url"), str)):
            raise _lost("the answer named no task")
        return Provider(id=task["id"], polling_url=task["polling_url"], cost=_number(task.get("cost")))

    def result(self, polling_url: str, turn: Turn, on_progress: Callable[[float], None]) -> Result:
        """Ask until the picture is ready. Raises JobFailure, and what `turn` and `on_progress` raise."""
        if not self._http.may_have_key(polling_url):
            raise UpstreamRejected(f"{NAME} named an address to ask at that is not its own.")
        seen: Counter[str] = Counter()
        for pause in self._patience.pauses():
            told = self._ask(polling_url, turn)
            status = _text(told.get("status"))
            if status == "Ready":
                return self._ready(told)
            if status in GOES_ON:
                if (progress := _number(told.get("progress"))) is not None and 0 <= progress <= 1:
                    on_progress(progress)
            else:
                seen[status] += 1
                self._judge(status, told, seen[status])
            turn.pause(pause)
        raise AssertionError("pauses never end")

    def download(self, url: str, turn: Turn) -> bytes:
        """Fetch a picture; the key stays here. Raises JobFailure, and what `turn` raises."""
        try:
            answer = self._http.fetch(url, turn, MAX_PICTURE_BYTES)
        except ForbiddenUrl as error:
            raise UpstreamRejected(
                f"{NAME} named an address of the picture that is not asked. {error.detail}"
            ) from None
        if answer.status != 200:
            raise UpstreamRejected(f"The picture could not be fetched from {NAME}: HTTP {answer.status}.")
        return answer.body

    def credits(self) -> float | None:
        """What the account still has; None where that cannot be told."""
        try:
            seconds = self._patience.answer_seconds
            url = f"{self._base}/v1/credits"
            answer = self._http.call("GET", url, seconds, MAX_ANSWER_BYTES, lambda: None)
        except (NoAnswer, InvalidOutput):
            return None
        return _number((answer.json() or {}).get("credits")) if answer.status == 200 else None

    def _ask(self, polling_url: str, turn: Turn) -> dict[str, Any]:
        """What they tell of a task; empty where that cannot be read."""
        answer = self._http.get(polling_url, turn, MAX_ANSWER_BYTES)
        if answer.status == 404:
            return {"status": NOT_FOUND}
        if answer.status != 200:
            raise self._refusal(answer)
        return answer.json() or {}

    def _judge(self, status: str, told: Mapping[str, Any], times: int) -> None:
        """Raises what a status means that is not good, once it was told often enough."""
        if status == NOT_FOUND:
            if times > MOST_NOT_FOUND:
                raise UpstreamRejected(f"{NAME} does not know the task any more.")
        elif status:
            raise self._failure(status, told)
        elif times == self._patience.tries:
            raise UpstreamUnavailable(f"{NAME} gives answers that cannot be read.")

    def _ready(self, told: Mapping[str, Any]) -> Result:
        result = told.get("result")
        sample = result.get("sample") if isinstance(result, dict) else None
        if not isinstance(sample, str):
            raise UpstreamRejected(f"{NAME} says that the picture is ready, but not where.")
        return Result(sample, _number(told.get("cost")))

    def _failure(self, status: str, told: Mapping[str, Any]) -> JobFailure:
        failure = FAILED.get(status, UpstreamRejected)
        details = told.get("details")
        reasons = details.get("Moderation Reasons") if isinstance(details, dict) else None
        if failure is ContentRejected:
            why = f" ({', '.join(map(str, reasons))})" if isinstance(reasons, list) and reasons else ""
            return failure(self._clean(f"{NAME} refused the content: {status}{why}.") or None)
        known = "ended the task" if status in FAILED else "told a status that is not known"
        more = f", {json.dumps(details)}" if details else ""
        return failure(self._clean(f"{NAME} {known}: {status}{more}."))

    def _refusal(self, answer: Answer) -> JobFailure:
        """What an answer with an error status means."""
        told = self._clean(_words((answer.json() or {}).get("detail")))
        because = f": {told}" if told else ""
        match answer.status:
            case 402:
                return UpstreamOutOfCredits(f"The account with {NAME} has too few credits{because}.")
            case 401 | 403:
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{because}.")
            # Also their answer to a key that cannot be one.
            case 422 if "api key" in told.lower():
                return UpstreamRejected(f"{NAME} refuses the key in SD_BFL_API_KEY{because}.")
            case 404:
                return UpstreamRejected(f"{NAME} does not have this model{because}.")
            case status if status >= 500:
                return _lost(f"HTTP {status}{because}")
            case status:
                return UpstreamRejected(f"{NAME} refuses the request (HTTP {status}){because}.")

    def _clean(self, text: str) -> str:
        """Their words, shortened, in one line, and without the key if they quoted it."""
        plain = " ".join(text.replace(self._key.get_secret_value(), "***").split())
        return "".join(filter(str.isprintable, plain))[:MAX_QUOTE]


def _lost(why: str) -> AnswerLost:
    return AnswerLost(f"{NAME} may have charged for this: {why}. It was not sent again.")


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
