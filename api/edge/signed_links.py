"""Signs links to images, and checks the signatures of requests."""

import secrets
from urllib.parse import parse_qs

from shared.access.links import IMAGE_PATH, LinkSigner, link_secret
from shared.redis.clock import StoreClock
from shared.redis.store import AsyncStore
from shared.settings.api import ApiSettings


class LinkSecret:
    """The secret that signs image links. A service without API keys signs nothing, because all images are open."""

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

    async def authorizes(self, method: str, path: str, query: bytes) -> bool:
        """Whether the query holds a valid signature of this very image. Raises StoreUnavailable."""
        if b"signature=" not in query or method not in ("GET", "HEAD") or not IMAGE_PATH.fullmatch(path):
            return False
        parameters = parse_qs(query.decode("latin-1"))
        expires, signature = (parameters.get(name, [""])[0] for name in ("expires", "signature"))
        signer = await self.signer()
        return signer is not None and signer.is_valid(path, expires, signature)

    async def _secret(self) -> bytes:
        if self._settings.link_secret is not None:
            return self._settings.link_secret.get_secret_value().encode()
        proposal = secrets.token_hex(32)
        return (await self._store.run(link_secret(self._settings.redis_prefix, proposal))).encode()
