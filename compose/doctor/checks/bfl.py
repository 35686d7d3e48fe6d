"""The key of Black Forest Labs, and what is left on its account."""

import json
from collections.abc import Iterator
from http import HTTPStatus

from compose.doctor.asking import ProbeFailed, ProbeResponse, probe
from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.jobs.types import Backend

PAGE = "https://dashboard.bfl.ai"
#: A credit is a cent; the dearest image of a megapixel costs seven.
LITTLE_CREDITS = 10
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY})


def look(here: Surroundings) -> Iterator[Finding]:
    settings = here.settings
    if Backend.FLUX_API not in settings.backends:
        yield ok("flux-api is not in SD_BACKENDS; no key is needed.")
    elif settings.bfl_api_key is None:
        yield problem("SD_BFL_API_KEY is empty, and flux-api needs it.", f"Make a key at {PAGE}.")
    else:
        yield _judged(probe(f"{settings.bfl_base_url}/v1/credits", {"x-key": settings.bfl_api_key.get_secret_value()}))


def _judged(answer: ProbeResponse | ProbeFailed) -> Finding:
    match answer:
        case ProbeResponse(status=HTTPStatus.OK, text=text):
            return _credits(text)
        case ProbeResponse(status=HTTPStatus.PAYMENT_REQUIRED):
            return _empty("no")
        case ProbeResponse(status=status) if status in REFUSED:
            return problem(f"Black Forest Labs refuses SD_BFL_API_KEY (HTTP {status}).", f"Make another one at {PAGE}.")
        case ProbeResponse(status=status):
            return warning(f"Black Forest Labs tells no credits now (HTTP {status}).", "Try again later.")
        case ProbeFailed(why):
            return warning(f"Black Forest Labs could not be asked for the credits: {why}.", "See `outbound`.")


def _credits(text: str) -> Finding:
    try:
        left = float(json.loads(text)["credits"])
    except (ValueError, TypeError, KeyError):
        return warning("Black Forest Labs takes the key, but tells no credits that can be read.", "Try again later.")
    if left <= 0:
        return _empty(f"{left:g}")
    if left < LITTLE_CREDITS:
        return warning(f"The account with Black Forest Labs has only {left:g} credits left.", f"Buy some at {PAGE}.")
    return ok(f"Black Forest Labs takes the key; {left:g} credits are left.")


def _empty(left: str) -> Finding:
    return problem(
        f"The account with Black Forest Labs has {left} credits left; jobs fail with upstream-out-of-credits (402).",
        f"Buy some at {PAGE}, or send requests to another engine with SD_DEFAULT_BACKEND.",
    )
