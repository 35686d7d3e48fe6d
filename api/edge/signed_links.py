"""What image links are signed with, and which requests a signature opens."""

import re
import secrets
from urllib.parse import parse_qs

from shared.access.links import LinkSigner, link_secret
from shared.redis.clock import StoreClock
from shared.redis.store import AsyncStore
from shared.settings.api import ApiSettings

_IMAGE = re.compile(r"/api/jobs/[0-9a-f-]{36}/images/\d{1,3}")


class LinkSecret:
    """What this service signs its links with: nothing where everybody may see everything anyway."""

    def __init__(self, settings: ApiSettings, store: AsyncStore, clock: StoreClock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._signer: LinkSigner | None = None

    async def signer(self) -> LinkSigner | None:
        """Raises StoreUnavailable."""
        if self._signer is None and self._settings.api_key:
            self._signer = LinkSigner(await self._secret(), self._settings.link_lifetime_seconds, self._clock.time)
        return self._signer

    async def opens(self, method: str, path: str, query: bytes) -> bool:
        """Whether the request is for the very image that its signature is of. Raises StoreUnavailable."""
        if b"signature=" not in query or method not in ("GET", "HEAD") or not _IMAGE.fullmatch(path):
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
