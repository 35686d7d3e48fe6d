"""Checks the access token for Hugging Face."""

import re
from collections.abc import Iterator
from http import HTTPStatus

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.http_probe import ProbeResponse, probe
from compose.doctor.installation import Installation, hub_url

TOKENS_PAGE = "https://huggingface.co/settings/tokens"


def check(installation: Installation) -> Iterator[Finding]:
    token = token_of(installation)
    if token is None:
        yield ok("No Hugging Face token is set; only gated models need one.")
    elif not re.fullmatch(r"hf_[A-Za-z0-9]{30,}", token):
        yield problem(
            "The Hugging Face token is malformed: a token is hf_ followed by letters and digits.",
            f"Copy it again from {TOKENS_PAGE} into SD_HUGGINGFACE_TOKEN.",
        )
    else:
        yield _check_token(token)


def token_of(installation: Installation) -> str | None:
    """From the settings, else from where Hugging Face's own tools store it."""
    if installation.settings.huggingface_token is not None:
        return installation.settings.huggingface_token.get_secret_value()
    from huggingface_hub import get_token

    return get_token()


def _check_token(token: str) -> Finding:
    match probe(f"{hub_url()}/api/whoami-v2", {"Authorization": f"Bearer {token}"}):
        case ProbeResponse(status=HTTPStatus.OK):
            return ok("Hugging Face accepts the token.")
        case ProbeResponse(status=HTTPStatus.UNAUTHORIZED):
            return problem(
                "Hugging Face refuses the token.",
                f"Create another one at {TOKENS_PAGE} and set SD_HUGGINGFACE_TOKEN to it.",
            )
        case _:
            return warning(
                "The token is well-formed, but Hugging Face could not verify it.",
                "Only downloads need the token: see `outbound`.",
            )
