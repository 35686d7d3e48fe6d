"""Connect to an S3-compatible bucket; the AWS_ variables of the environment hold the credentials."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from shared.errors import ConfigurationError, StorageUnavailable
from shared.storage.object_store import StorageTimeouts

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

logger = logging.getLogger(__name__)

#: Object that each process writes at start, so that missing permissions show before an image is made.
PROBE = ".imagegen"
#: The XML of an error response.
_ANSWER = re.compile(r"(?:<\?xml[^>]*>\s*)?<Error>\s*<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")
#: Errors that a retry cannot repair, such as a wrong region or an expired token.
_REFUSED = re.compile(r"status code: 4(?!08|29)[0-9][0-9]")


@dataclass(frozen=True)
class BucketLocation:
    url: str
    """s3://<bucket>/<prefix>"""
    public_url: str = ""
    """URL of the storage service for clients; empty if they cannot reach it."""
    ca_file: Path | None = None


def connect(location: BucketLocation, timeouts: StorageTimeouts, endpoint: str = "") -> S3Store:
    """Configure a client; it sends no request. Raises ConfigurationError."""
    client: ClientConfig = {
        # An endpoint without TLS is the operator's choice.
        "allow_http": True,
        "connect_timeout": timedelta(seconds=2),
        "timeout": timedelta(seconds=timeouts.request_seconds),
    }
    if location.ca_file:
        client["root_certificate"] = location.ca_file.read_bytes()
    config: S3Config = {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint} if endpoint else {}
    retry: RetryConfig = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=timeouts.retry_seconds),
        "backoff": {"max_backoff": timedelta(seconds=5)},
    }
    name, _, prefix = location.url.removeprefix("s3://").partition("/")
    try:
        return S3Store(name, prefix=prefix or None, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"SD_OUTPUT_URL is wrong: {_first_line(error)}") from None


def supports_conditional_writes(store: S3Store) -> bool:
    """Probe whether the service refuses to replace an object on request. Raises ConfigurationError.

    An unreachable service counts as one that does: it may come up later.
    """
    try:
        with translate_errors():
            obstore.put(store, PROBE, b"imagegen", use_multipart=False)
            obstore.put(store, PROBE, b"imagegen", mode="create", use_multipart=False)
    except FileExistsError:
        return True
    except StorageUnavailable as error:
        match error.__cause__:
            case FileNotFoundError():
                raise ConfigurationError("SD_OUTPUT_URL is wrong: the bucket does not exist.") from None
            case PermissionDeniedError() | UnauthenticatedError() as cause:
                raise ConfigurationError(_not_writable(cause)) from None
            case cause if _REFUSED.search(str(cause)):
                raise ConfigurationError(_not_writable(cause)) from None
            case cause:
                return "NotImplemented" not in str(cause)
    return False


def _not_writable(error: object) -> str:
    reason = "the bucket is not writable"
    if answer := _ANSWER.search(str(error)):
        reason = f"{reason} ({_quoted(answer)})"
    return f"SD_OUTPUT_URL, AWS_REGION, AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is wrong: {reason}."


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raises StorageUnavailable, FileNotFoundError for a missing object, and FileExistsError for an existing one."""
    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError from error
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise
        raise _log_unavailable(error) from error
    except (BaseError, TimeoutError) as error:
        raise _log_unavailable(error) from error


def _log_unavailable(error: Exception) -> StorageUnavailable:
    logger.warning("storage: %s", _first_line(error) or "no answer in time")
    return StorageUnavailable()


def _first_line(error: Exception) -> str:
    """The first line, or the error that the service sent. The other lines describe internals of the library."""
    text = str(error)
    answer = _ANSWER.search(text)
    return f"{text[: answer.start()]}{_quoted(answer)}" if answer else text.partition("\n")[0]


def _quoted(answer: re.Match[str]) -> str:
    """Code and message of the error response: the rest contains keys and signatures."""
    return ": ".join(part.strip().rstrip(".") for part in answer.groups() if part)
