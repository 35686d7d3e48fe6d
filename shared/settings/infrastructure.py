"""Settings of what all processes share, wherever they run: Redis, and where images are kept."""

import errno
import os
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import ConfigurationError


def expand_home(value: str) -> str:
    """With a leading ~ as shells understand it: in `.env`, none sees it."""
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError("begins with ~, and no home folder of that user is known: write the whole path") from None


def _expand_home(value: object) -> object:
    return expand_home(value) if isinstance(value, str) else value


Folder = Annotated[Path, BeforeValidator(_expand_home)]
File = Annotated[FilePath, BeforeValidator(_expand_home)]


def _redis_url(value: str) -> str:
    if not value:
        return value
    try:
        url = urlsplit(value)
        known, sound = url.scheme in ("redis", "rediss", "unix"), url.port != 0
    except ValueError:
        # Not its words: where a password is not encoded, they quote a piece of it.
        known = sound = False
        if re.match("(redis|rediss|unix)://", value):
            raise ValueError(
                "its host and port cannot be read; in a password, write / ? # @ and : as %2F %3F %23 %40 %3A"
            ) from None
    if not known:
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if not sound or not (url.path if url.scheme == "unix" else url.hostname):
        raise ValueError("must be such as redis://:password@host:6379/0 or unix:///path/of/the/socket")
    return value


def _bucket_url(value: str) -> str:
    if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[\w.-]+)*/?", value, re.ASCII):
        raise ValueError("must be s3:// and the name of a bucket, such as s3://images or s3://images/imagegen")
    return value


def require_folder(folder: Path, setting: str) -> None:
    """Made where it is not there. Raises ConfigurationError where this user cannot write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wrong = None if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except FileExistsError:
        wrong = os.strerror(errno.ENOTDIR)
    except OSError as error:
        wrong = error.strerror
    if wrong is not None:
        raise ConfigurationError(
            f"{setting}={folder} cannot be used ({wrong}): make it a folder that this user may write to, or choose "
            "another."
        )


class InfrastructureSettings(BaseSettings):
    """Where the jobs and the images are."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = ""
    """Redis or Valkey server, e.g. redis://:password@host:6379/0, or rediss://user:password@host:6380/0 with TLS.
    Empty: `imagegen up` starts one of its own."""
    redis_prefix: Annotated[str, Field(max_length=64, pattern=r"^[\w:.-]*$")] = "imagegen:"
    """Begins every key, so that the server can be shared with other applications."""
    redis_cert_file: File | None = None
    """Certificate (PEM), and those it rests on, that shows the Redis server who connects, where it asks for one."""
    redis_key_file: File | None = None
    """Key (PEM) of SD_REDIS_CERT_FILE."""
    ca_file: File | None = None
    """Certificates (PEM) of authorities to believe beside the known ones, for SD_REDIS_URL and SD_OUTPUT_URL."""
    output_dir: Folder = Path("outputs")
    """Where images are kept, unless SD_OUTPUT_URL is set. Workers write here, the API serves from here."""
    output_url: Annotated[str, AfterValidator(_bucket_url)] = ""
    """Bucket of S3, or of what speaks like it, that images are kept in: s3://bucket/prefix. AWS_ENDPOINT_URL,
    AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY say where it is and who asks."""

    def require_output_dir(self) -> None:
        """Raises ConfigurationError where images could not be kept, or not gathered for their bucket."""
        require_folder(self.output_dir, "SD_OUTPUT_DIR")

    @model_validator(mode="after")
    def _with_certificates(self) -> Self:
        """Whoever connects by the address does it with these files."""
        files = {
            "ssl_ca_certs": self.ca_file,
            "ssl_certfile": self.redis_cert_file,
            "ssl_keyfile": self.redis_key_file,
        }
        url = urlsplit(self.redis_url)
        if url.scheme == "rediss":
            query = {name: str(file) for name, file in files.items() if file} | dict(parse_qsl(url.query))
            object.__setattr__(self, "redis_url", url._replace(query=urlencode(query)).geturl())
        return self
