"""Links to images in webhooks."""

import secrets

from shared.access.links import Links, LinkSigner, link_secret
from shared.jobs.job import Job
from shared.redis.store import Store
from shared.settings.service import LinkSettings
from worker.records.redis_retry import retry_until_available


class JobLinks:
    """The links that the job's own caller gets: signed if the job was submitted with an API key."""

    def __init__(self, settings: LinkSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._signer: LinkSigner | None = None

    def of(self, job: Job) -> Links:
        """May wait for Redis."""
        return Links(job.base_url, self._link_signer() if job.owner else None)

    def _link_signer(self) -> LinkSigner:
        if self._signer is None:
            self._signer = LinkSigner(self._secret(), self._settings.link_lifetime_seconds)
        return self._signer

    def _secret(self) -> bytes:
        if self._settings.link_secret is not None:
            return self._settings.link_secret.get_secret_value().encode()
        proposed = link_secret(self._settings.redis_prefix, secrets.token_hex(32))
        return retry_until_available(lambda: self._store.run(proposed)).encode()
