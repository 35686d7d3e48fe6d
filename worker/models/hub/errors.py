"""Translates errors of Hugging Face's client into messages that say what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from shared.errors import ConfigurationError

# Telemetry would report, among other things, which coding assistant runs this program.
constants.HF_HUB_DISABLE_TELEMETRY = True
# Downloader reports progress itself.
disable_progress_bars()

TOKENS = "https://huggingface.co/settings/tokens"


class HubUnreachable(Exception):
    """No usable response; a later attempt may succeed."""


def validate_model_id(name: str) -> None:
    """Raises ConfigurationError unless the name is a valid id, and so a safe path of two folders."""
    with translated_hub_errors(name):
        validate_repo_id(name)


@contextmanager
def translated_hub_errors(name: str) -> Iterator[None]:
    """Raises HubUnreachable for temporary errors and ConfigurationError for permanent ones.

    Disk errors pass unchanged.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:
        # The client found no local file after the request to the hub had failed; the cause is that failure.
        raise _translation(name, error.__cause__) or HubUnreachable(str(error)) from None
    except Exception as error:
        translation = _translation(name, error)
        if translation is None:
            raise
        raise translation from None


def _translation(name: str, error: BaseException | None) -> Exception | None:
    match error:
        case HFValidationError():
            return ConfigurationError(f"{name} is neither a local folder nor a valid Hugging Face id.")
        case HfHubHTTPError():
            return _http_error(name, error)
        case OfflineModeIsEnabled():
            return HubUnreachable("HF_HUB_OFFLINE is set")
        # OSError: the client received too few bytes. RuntimeError: the Xet library has no other errors.
        case httpx2.HTTPError() | OSError(errno=None) | RuntimeError():
            if os.strerror(errno.ENOSPC) in str(error):
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return HubUnreachable(str(error).strip().partition("\n")[0] or type(error).__name__)
        case _:
            return None


def _http_error(name: str, error: HfHubHTTPError) -> Exception:
    match error:
        case GatedRepoError():
            terms = f"accept its terms at https://huggingface.co/{name}"
            remedy = f"{terms}, and set SD_HUGGINGFACE_TOKEN to a token of the same account ({TOKENS})"
        case RepositoryNotFoundError():
            remedy = f"Hugging Face has no model of this name; a private one needs SD_HUGGINGFACE_TOKEN ({TOKENS})"
        case RemoteEntryNotFoundError() | RevisionNotFoundError():
            remedy = f"its files have changed during the download; run `imagegen models remove {name}`, then try again"
        case _ if error.response.status_code in (401, 403):
            remedy = f"Hugging Face rejects SD_HUGGINGFACE_TOKEN for it; create another token at {TOKENS}"
        case _:
            return HubUnreachable(f"it responds with HTTP {error.response.status_code}")
    return ConfigurationError(f"The model {name} cannot be downloaded: {remedy}.")
