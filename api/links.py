"""Addresses of jobs and their pictures, and the signatures by which pictures open without a key."""

import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs

from shared.links import Signer, link_secret
from shared.settings import ApiSettings
from shared.store import AsyncStore


def job_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}"


_PICTURE = re.compile(r"/api/jobs/[0-9a-f-]{36}/images/\d{1,3}")


@dataclass(frozen=True)
class Links:
    """Makes the picture links of one answer; `base_url` has no slash at its end."""

    base_url: str
    signer: Signer | None

    def picture(self, job_id: str, index: int) -> str:
        path = f"{job_path(job_id)}/images/{index}"
        url = f"{self.base_url}{path}"
        return f"{url}?{self.signer.query(path)}" if self.signer else url


class LinkSecret:
    """What this service signs its links with: nothing where everybody may see everything anyway."""

    def __init__(self, settings: ApiSettings, store: AsyncStore) -> None:
        self._settings = settings
        self._store = store
        self._signer: Signer | None = None

    async def signer(self) -> Signer | None:
        """Raises StoreUnavailable."""
        if self._signer is None and self._settings.api_key:
            self._signer = Signer(await self._secret(), self._settings.link_lifetime_seconds)
        return self._signer

    async def opens(self, method: str, path: str, query: bytes) -> bool:
        """Whether the request is for the very picture that its signature is of. Raises StoreUnavailable."""
        if b"signature=" not in query or method not in ("GET", "HEAD") or not _PICTURE.fullmatch(path):
            return False
        told = parse_qs(query.decode("latin-1"))
        expires, signature = (told.get(name, [""])[0] for name in ("expires", "signature"))
        signer = await self.signer()
        return signer is not None and signer.is_valid(path, expires, signature)

    async def _secret(self) -> bytes:
        if self._settings.link_secret is not None:
            return self._settings.link_secret.get_secret_value().encode()
        proposed = secrets.token_hex(32)
        return (await self._store.run(link_secret(self._settings.redis_prefix, proposed))).encode()
