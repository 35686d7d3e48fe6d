"""Prints docs/errors.md: every code that an answer may have, as shared.errors and api.problems have them."""

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

Go by `code`, which never changes once it is released. `detail` is for people, and says more than the sentences here
where more is known, and of a wrong request the first wrong field; `errors` names each by its JSON pointer. `retryable`
says whether the same request may succeed later; where it is known when, there is `Retry-After`. No error quotes what
was sent, and none has a traceback. Where it is not known whether a job was accepted, `job_id` is its id if so.

This page is written by `make fix` from what the code says (`shared/errors.py`, `api/problems.py`).
"""

ASKED = """## Asked wrongly, or at a wrong time

Told at once; there is no job.
"""
HAPPENED = """## Happened later

Kept on the job, as its `error`. Who waits for it is answered with this status; the job itself is answered with 200.
"""


def render() -> str:
    known = {error.code: error for error in vars(errors).values() if _has_code(error)}
    happened = {code for code, error in known.items() if issubclass(error, JobFailure)}
    lines = [HEAD]
    for title, codes in ((ASKED, STATUS.keys() - happened), (HAPPENED, STATUS.keys() & happened)):
        lines += [title, "| code | status | retryable | means |", "|---|---|---|---|"]
        lines += [_row(known[code]) for code in STATUS if code in codes]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _row(error: type[ImagegenError]) -> str:
    means = " ".join((error.__doc__ or "").split())
    return f"| `{error.code}` | {STATUS[error.code]} | {'yes' if error.retryable else ''} | {means} |"


def _has_code(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, ImagegenError) and "code" in vars(value)


if __name__ == "__main__":
    print(render(), end="")
