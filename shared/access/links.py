"""Links to jobs and images, and signatures that open images without an API key for a limited time."""

import hmac
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from shared.redis.keys import Keys
from shared.redis.store import Operation

#: The path of an image: the id of its job, and its index.
IMAGE_PATH = re.compile(r"/api/jobs/([0-9a-f-]{36})/images/([0-9]{1,3})")


def job_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}"


class LinkSigner:
    """A link works for at least `lifetime_seconds`."""

    def __init__(self, secret: bytes, lifetime_seconds: int, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._lifetime = lifetime_seconds
        self._clock = clock
        # Links made shortly after each other are equal, so that a reloaded page finds its images cached.
        self._step = max(1, lifetime_seconds // 24)

    def sign(self, path: str) -> str:
        """The query to append to the path."""
        expires = str((int(self._clock()) // self._step + 1) * self._step + self._lifetime)
        return f"expires={expires}&signature={self._signature(path, expires)}"

    def is_valid(self, path: str, expires: str, signature: str) -> bool:
        if not re.fullmatch(r"[0-9]{1,12}", expires) or not signature.isascii():
            return False
        is_match = hmac.compare_digest(self._signature(path, expires), signature)
        return is_match and self._clock() < int(expires)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{expires} {path}".encode(), sha256).hexdigest()


@dataclass(frozen=True)
class Links:
    """Builds the links of one answer; `base_url` has no trailing slash."""

    base_url: str
    signer: LinkSigner | None

    def job(self, job_id: str) -> str:
        """The path on this host, with the prefix that a proxy may add."""
        return urlsplit(self.base_url).path + job_path(job_id)

    def image(self, job_id: str, index: int) -> str:
        path = f"{job_path(job_id)}/images/{index}"
        url = f"{self.base_url}{path}"
        return f"{url}?{self.signer.sign(path)}" if self.signer else url


def link_secret(prefix: str, proposed: str) -> Operation[str]:
    """The signing secret that all processes share: the first proposal."""
    return Operation("housekeeping/get_or_create_secret", [Keys(prefix).link_secret], [proposed], str)
