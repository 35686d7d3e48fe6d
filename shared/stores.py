"""Settings of what all processes share, wherever they run: Redis, and where pictures are kept."""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, Field, FilePath, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _redis_url(value: str) -> str:
    if value and urlsplit(value).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return value


def _bucket_url(value: str) -> str:
    if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[\w.-]+)*/?", value, re.ASCII):
        raise ValueError("must be s3:// and the name of a bucket, such as s3://pictures or s3://pictures/imagegen")
    return value


class StoreSettings(BaseSettings):
    """Where the jobs and the pictures are."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = ""
    """Redis or Valkey server, e.g. redis://:password@host:6379/0, or rediss://user:password@host:6380/0 with TLS.
    Empty: `imagegen up` starts one of its own."""
    redis_prefix: Annotated[str, Field(max_length=64, pattern=r"^[\w:.-]*$")] = "imagegen:"
    """Begins every key, so that the server can be shared with other applications."""
    redis_cert_file: FilePath | None = None
    """Certificate (PEM), and those it rests on, that shows the Redis server who connects, where it asks for one."""
    redis_key_file: FilePath | None = None
    """Key (PEM) of SD_REDIS_CERT_FILE."""
    ca_file: FilePath | None = None
    """Certificates (PEM) of authorities to believe beside the known ones, for SD_REDIS_URL and SD_OUTPUT_URL."""
    output_dir: Path = Path("outputs")
    """Where pictures are kept, unless SD_OUTPUT_URL is set. Workers write here, the API serves from here."""
    output_url: Annotated[str, AfterValidator(_bucket_url)] = ""
    """Bucket of S3, or of what speaks like it, that pictures are kept in: s3://bucket/prefix. AWS_ENDPOINT_URL,
    AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY say where it is and who asks."""

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
