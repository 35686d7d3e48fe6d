"""Settings of Redis and of image storage, which all processes share."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from shared.errors import ConfigurationError
from shared.settings.groups import Group


def expand_home(value: str) -> str:
    """Expand a leading ~, which no shell does in `.env`."""
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError("begins with ~, but that user has no known home folder: write the full path") from None


def _expand_home(value: object) -> object:
    return expand_home(value) if isinstance(value, str) else value


Folder = Annotated[Path, BeforeValidator(_expand_home)]


def _existing_file(file: Path) -> Path:
    """Not whether it can be read: not every command needs to."""
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        raise ValueError("names a file that does not exist") from None
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({error.strerror})") from None
    if not is_file:
        raise ValueError("names something that is not a file")
    return file


File = Annotated[Path, BeforeValidator(_expand_home), AfterValidator(_existing_file)]


def _redis_url(value: str) -> str:
    if not value:
        return value
    scheme, separator, rest = value.partition("://")
    if scheme.lower() not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    value = f"{scheme.lower()}{separator}{rest}"
    try:
        url = urlsplit(value)
        has_valid_port = url.port != 0
    except ValueError:
        # The exception's own text quotes parts of a password that is not percent-encoded.
        raise ValueError(
            "has no readable host and port; in a password, write / ? # @ and : as %2F %3F %23 %40 %3A"
        ) from None
    if not has_valid_port or not (url.path if url.scheme == "unix" else url.hostname):
        raise ValueError("must look like redis://:password@host:6379/0 or unix:///path/to/socket")
    if url.scheme != "unix" and not re.fullmatch(r"(/\d*)?", url.path, re.ASCII):
        raise ValueError("must end after the port, or with the number of a database, such as /0")
    return value


def _bucket_url(value: str) -> str:
    if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[\w.-]+)*/?", value, re.ASCII):
        raise ValueError("must be s3:// and a bucket name, such as s3://images or s3://images/imagegen")
    return value


def require_folder(folder: Path, setting: str) -> None:
    """Create the folder if needed. Raises ConfigurationError if this user cannot write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
        is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = None if is_writable else os.strerror(errno.EROFS if is_read_only else errno.EACCES)
    except FileExistsError:
        reason = os.strerror(errno.ENOTDIR)
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise ConfigurationError(
            f"{setting}={folder} cannot be used ({reason}): make it writable for this user, or choose another folder."
        )


class InfrastructureSettings(BaseModel):
    """Where jobs and images are stored."""

    redis_url: Annotated[str, Group.START, AfterValidator(_redis_url)] = ""
    """Redis or Valkey server, such as redis://:password@host:6379/0, or rediss://user:password@host:6380/0 with TLS.
    If empty, `imagegen up` starts an embedded server."""
    redis_prefix: Annotated[str, Group.REDIS, Field(max_length=64, pattern=r"^[A-Za-z0-9_:.-]*$")] = "imagegen:"
    """Prefix of every Redis key, so that applications can share a server."""
    redis_cert_file: Annotated[File | None, Group.REDIS] = None
    """Client certificate chain (PEM) for Redis, if the server requires one."""
    redis_key_file: Annotated[File | None, Group.REDIS] = None
    """Private key (PEM) of SD_REDIS_CERT_FILE."""
    ca_file: Annotated[File | None, Group.REDIS] = None
    """Additional CA certificates (PEM) to trust for SD_REDIS_URL and SD_OUTPUT_URL."""
    output_dir: Annotated[Folder, Group.START] = Path("outputs")
    """Folder that images are stored in. Workers write to it, the API reads from it. With SD_OUTPUT_URL it only holds
    uploads until they are complete."""
    output_url: Annotated[str, Group.STORAGE, AfterValidator(_bucket_url)] = ""
    """S3-compatible bucket that images are stored in: s3://bucket/prefix. AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set its endpoint, region and credentials. If empty, images are stored
    in SD_OUTPUT_DIR."""

    def require_output_dir(self) -> None:
        """Raises ConfigurationError if images cannot be stored, or staged for a bucket."""
        require_folder(self.output_dir, "SD_OUTPUT_DIR")

    @model_validator(mode="after")
    def _with_certificates(self) -> Self:
        """Put the TLS files into the URL, so that every client of it uses them."""
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
