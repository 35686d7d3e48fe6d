"""The token of Hugging Face."""

import re
from collections.abc import Iterator
from http import HTTPStatus

from compose.doctor.asking import ProbeResponse, probe
from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings, hub_url

PAGE = "https://huggingface.co/settings/tokens"


def look(here: Surroundings) -> Iterator[Finding]:
    token = token_of(here)
    if token is None:
        yield ok("No token of Hugging Face is set; only models behind a login need one.")
    elif not re.fullmatch(r"hf_[A-Za-z0-9]{30,}", token):
        yield problem(
            "The token of Hugging Face is none: one begins with hf_, and letters and digits follow.",
            f"Copy it anew from {PAGE} into SD_HUGGINGFACE_TOKEN.",
        )
    else:
        yield _judged(token)


def token_of(here: Surroundings) -> str | None:
    """The one of the settings, else the one that Hugging Face's own tools keep."""
    if here.settings.huggingface_token is not None:
        return here.settings.huggingface_token.get_secret_value()
    from huggingface_hub import get_token

    return get_token()


def _judged(token: str) -> Finding:
    answer = probe(f"{hub_url()}/api/whoami-v2", {"Authorization": f"Bearer {token}"})
    match answer:
        case ProbeResponse(status=HTTPStatus.OK):
            return ok("Hugging Face takes the token.")
        case ProbeResponse(status=HTTPStatus.UNAUTHORIZED):
            return problem(
                "Hugging Face does not take the token.",
                f"Make another one at {PAGE} and set SD_HUGGINGFACE_TOKEN to it.",
            )
        case _:
            return warning(
                "The token has the right form; Hugging Face could not be asked whether it takes it.",
                "Only downloads need it: look at what `outbound` says.",
            )
