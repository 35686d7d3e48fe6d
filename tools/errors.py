"""Print docs/errors.md: every error code, from shared.errors and api.problems."""

from api.problems import STATUS
from shared import errors
from shared.errors import ImagegenError, JobFailure

HEAD = """# Errors

Every error is `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)):

```json
{"type": "urn:imagegen:problem:invalid-request", "title": "Invalid request", "status": 422,
 "detail": "The starter model cannot make this image: width must be a multiple of 8 between 64 and 256.",
 "code": "invalid-request", "retryable": false,
 "errors": [{"pointer": "/width", "detail": "must be a multiple of 8 between 64 and 256"}]}
```

Branch on `code`: a released code never changes. `detail` is a sentence for people; it may say more than the tables
below, and it describes the first invalid field. `errors` lists all invalid fields, also invalid images, by JSON
pointer. `retryable` says whether the same request may succeed later; `Retry-After` says when, if that is known. Errors
never quote the request and never contain tracebacks. `job_id` is the id of a job that continues (`not-finished`) or
that may have been accepted (`store-unavailable`).

`make fix` generates this page from `shared/errors.py` and `api/problems.py`.
"""

REQUEST_ERRORS = """## Request errors

The response to the request. No job is created, unless the error has a `job_id`.
"""
JOB_ERRORS = """## Job errors

The `error` of a failed job. A request that waits for the job gets this status; `GET /api/jobs/{id}` gets 200.
`invalid-image`, `storage-full`, `storage-unavailable` and `internal-error` may also be the response to a request.
"""


def render() -> str:
    known = {error.code: error for error in vars(errors).values() if _has_code(error)}
    job_errors = {code for code, error in known.items() if issubclass(error, JobFailure)}
    lines = [HEAD]
    for title, codes in ((REQUEST_ERRORS, STATUS.keys() - job_errors), (JOB_ERRORS, STATUS.keys() & job_errors)):
        lines += [title, "| code | status | retryable | meaning |", "|---|---|---|---|"]
        lines += [_row(known[code]) for code in STATUS if code in codes]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _row(error: type[ImagegenError]) -> str:
    meaning = " ".join((error.__doc__ or "").split())
    return f"| `{error.code}` | {STATUS[error.code]} | {'yes' if error.retryable else ''} | {meaning} |"


def _has_code(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, ImagegenError) and "code" in vars(value)


if __name__ == "__main__":
    print(render(), end="")
