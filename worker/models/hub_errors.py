"""Refusals and failures of Hugging Face, turned into sentences that say what to do."""

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

# It would look up on the network which coding assistant runs this program, to tell of it.
constants.HF_HUB_DISABLE_TELEMETRY = True
# Progress is told in our own way.
disable_progress_bars()

TOKENS = "https://huggingface.co/settings/tokens"


class HubUnreachable(Exception):
    """No answer, or none that helps; another try may succeed."""


def validate_model_id(name: str) -> None:
    """Raises ConfigurationError for what could be no name there, and no two folders here."""
    with translated_hub_errors(name):
        validate_repo_id(name)


@contextmanager
def translated_hub_errors(name: str) -> Iterator[None]:
    """Of what the hub's client raises: HubUnreachable, and ConfigurationError for what waiting does not change.

    Errors of the disk are left as they are.
    """
    try:
        yield
    except LocalEntryNotFoundError as error:
        # Its way to say that the hub failed and that nothing is here instead; the cause says how.
        raise _translation(name, error.__cause__) or HubUnreachable(str(error)) from None
    except Exception as error:
        translation = _translation(name, error)
        if translation is None:
            raise
        raise translation from None


def _translation(name: str, error: BaseException | None) -> Exception | None:
    match error:
        case HFValidationError():
            return ConfigurationError(f"{name} is neither a folder here nor a name that Hugging Face could have.")
        case HfHubHTTPError():
            return _answered(name, error)
        case OfflineModeIsEnabled():
            return HubUnreachable("HF_HUB_OFFLINE is set")
        # The client itself raises the second for what came short. Xet has no errors of its own.
        case httpx2.HTTPError() | OSError(errno=None) | RuntimeError():
            if os.strerror(errno.ENOSPC) in str(error):
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return HubUnreachable(str(error).strip().partition("\n")[0] or type(error).__name__)
        case _:
            return None


def _answered(name: str, error: HfHubHTTPError) -> Exception:
    match error:
        case GatedRepoError():
            terms = f"accept its terms at https://huggingface.co/{name}"
            remedy = f"{terms}, and set SD_HUGGINGFACE_TOKEN to a token of the same account ({TOKENS})"
        case RepositoryNotFoundError():
            remedy = f"Hugging Face has none of this name; a private one needs SD_HUGGINGFACE_TOKEN ({TOKENS})"
        case RemoteEntryNotFoundError() | RevisionNotFoundError():
            remedy = f"its files have changed meanwhile; `imagegen models remove {name}`, then try again"
        case _ if error.response.status_code in (401, 403):
            remedy = f"Hugging Face does not take SD_HUGGINGFACE_TOKEN for it; make another one at {TOKENS}"
        case _:
            return HubUnreachable(f"it answers {error.response.status_code}")
    return ConfigurationError(f"The model {name} cannot be had: {remedy}.")
