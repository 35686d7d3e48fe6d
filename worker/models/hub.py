"""Hugging Face, as far as a download needs it, with its refusals turned into sentences that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, validate_repo_id

from shared.errors import ConfigurationError
from worker.models.pipelines import RemoteFile

# It would look up on the network which coding assistant runs this program, to tell of it.
constants.HF_HUB_DISABLE_TELEMETRY = True

#: Hugging Face answers in well under a second; without the network, its own client would try for half a minute.
ANSWER_SECONDS = 10.0
TOKENS = "https://huggingface.co/settings/tokens"


class HubAway(Exception):
    """No answer, or none that helps; another try may succeed."""


@dataclass(frozen=True)
class Repository:
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class Body:
    """What is left of a file. `start` is 0 where the server sends all of it, whatever was asked for."""

    start: int
    chunks: Iterator[bytes]


class Hub:
    """Every method raises HubAway, and ConfigurationError for what waiting does not change."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def look(self, name: str) -> Repository:
        with _translated(name):
            info = HfApi(token=self._token).model_info(name, files_metadata=True, timeout=ANSWER_SECONDS)
        files = [
            RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
            for file in info.siblings or ()
        ]
        return Repository(str(info.sha), tuple(files))

    @contextmanager
    def open(self, name: str, commit: str, path: str, start: int = 0) -> Iterator[Body]:
        """The file from byte `start` on."""
        # Compressed, a part of a file would be no part of it.
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        url = hf_hub_url(name, path, revision=commit)
        with (
            _translated(name),
            get_session().stream("GET", url, headers=headers, timeout=ANSWER_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            partial = response.status_code == httpx2.codes.PARTIAL_CONTENT
            yield Body(start if partial else 0, response.iter_bytes())


def require_name(name: str) -> None:
    """Raises ConfigurationError for what could be no name there, and no two folders here."""
    with _translated(name):
        validate_repo_id(name)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError:
        raise ConfigurationError(f"{name} is neither a folder here nor a name that Hugging Face could have.") from None
    except GatedRepoError:
        raise _refusal(
            name,
            f"accept its terms at https://huggingface.co/{name}, and set SD_HUGGINGFACE_TOKEN to a token of the same "
            f"account ({TOKENS})",
        ) from None
    except RepositoryNotFoundError:
        raise _refusal(
            name, f"Hugging Face has none of this name; a private one needs SD_HUGGINGFACE_TOKEN ({TOKENS})"
        ) from None
    except (EntryNotFoundError, RevisionNotFoundError):
        raise _refusal(
            name, f"its files have changed meanwhile; `imagegen models remove {name}`, then try again"
        ) from None
    except HfHubHTTPError as error:
        match error.response.status_code:
            case 401 | 403:
                raise _refusal(
                    name, f"Hugging Face does not take SD_HUGGINGFACE_TOKEN for it; make another one at {TOKENS}"
                ) from None
            case status:
                raise HubAway(f"it answers {status}") from None
    except OfflineModeIsEnabled:
        raise HubAway("HF_HUB_OFFLINE is set") from None
    except httpx2.HTTPError as error:
        raise HubAway(str(error) or type(error).__name__) from None


def _refusal(name: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"The model {name} cannot be had: {remedy}.")
