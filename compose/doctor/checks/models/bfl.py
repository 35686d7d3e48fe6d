"""Checks the API key of Black Forest Labs, the credits of its account, and the proxies on the way there."""

import json
from collections.abc import Iterator
from http import HTTPStatus

from requests.utils import get_environ_proxies, select_proxy

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.http_probe import ProbeFailed, ProbeResponse, probe
from compose.doctor.installation import Installation
from shared.jobs.types import Backend

DASHBOARD = "https://dashboard.bfl.ai"
#: A credit is a cent; the most expensive image of a megapixel costs seven.
LOW_CREDITS = 10
REFUSED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY})


def check(installation: Installation) -> Iterator[Finding]:
    settings = installation.settings
    if Backend.FLUX_API not in settings.backends:
        yield ok("flux-api is not in SD_BACKENDS; no key is needed.")
    elif settings.bfl_api_key is None:
        yield problem("SD_BFL_API_KEY is empty, and flux-api needs it.", f"Create a key at {DASHBOARD}.")
    else:
        url = settings.bfl_base_url
        if settings.egress_proxy is None and select_proxy(url, get_environ_proxies(url)):
            yield warning(
                "Jobs are sent to Black Forest Labs through HTTPS_PROXY, but their images are fetched without a proxy.",
                "Set SD_EGRESS_PROXY, too, unless this network allows that: a job is paid for even if its image cannot "
                "be fetched.",
            )
        key = settings.bfl_api_key.get_secret_value()
        yield _check_response(probe(f"{url}/v1/credits", {"x-key": key}))


def _check_response(response: ProbeResponse | ProbeFailed) -> Finding:
    match response:
        case ProbeResponse(status=HTTPStatus.OK, text=text):
            return _check_credits(text)
        case ProbeResponse(status=HTTPStatus.PAYMENT_REQUIRED):
            return _out_of_credits("no")
        case ProbeResponse(status=status) if status in REFUSED:
            remedy = f"Create another key at {DASHBOARD}."
            return problem(f"Black Forest Labs refuses SD_BFL_API_KEY (HTTP {status}).", remedy)
        case ProbeResponse(status=status):
            return warning(f"Black Forest Labs does not return the credits (HTTP {status}).", "Try again later.")
        case ProbeFailed(reason):
            return warning(f"The credits at Black Forest Labs are unknown: {reason}.", "See `outbound`.")


def _check_credits(text: str) -> Finding:
    try:
        credits_left = float(json.loads(text)["credits"])
    except (ValueError, TypeError, KeyError):
        return warning(
            "Black Forest Labs accepts the key, but returns no readable number of credits.", "Try again later."
        )
    if credits_left <= 0:
        return _out_of_credits(f"{credits_left:g}")
    if credits_left < LOW_CREDITS:
        detail = f"The account at Black Forest Labs has only {credits_left:g} credits left."
        return warning(detail, f"Buy credits at {DASHBOARD}.")
    return ok(f"Black Forest Labs accepts the key; {credits_left:g} credits are left.")


def _out_of_credits(credits_left: str) -> Finding:
    return problem(
        f"The account at Black Forest Labs has {credits_left} credits left; jobs fail with upstream-out-of-credits "
        "(402).",
        f"Buy credits at {DASHBOARD}, or send requests to another backend with SD_DEFAULT_BACKEND.",
    )
