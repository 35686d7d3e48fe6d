"""Links to images in webhooks."""

import secrets
from dataclasses import dataclass
from functools import cached_property

from shared.access.links import Links, LinkSigner, link_secret
from shared.jobs.job import Job
from shared.redis.store import Store
from shared.settings.signing import SigningSettings
from worker.records.redis_retry import retry_until_available


@dataclass
class JobLinks:
    """The links that the job's own caller gets: signed if the job was submitted with an API key."""

    settings: SigningSettings
    store: Store

    def of(self, job: Job) -> Links:
        """May wait for Redis."""
        return Links(job.base_url, self._signer if job.owner else None)

    @cached_property
    def _signer(self) -> LinkSigner:
        return LinkSigner(self._secret(), self.settings.link_lifetime_seconds)

    def _secret(self) -> bytes:
        if self.settings.link_secret is not None:
            return self.settings.link_secret.get_secret_value().encode()
        proposed = link_secret(self.settings.redis_prefix, secrets.token_hex(32))
        return retry_until_available(lambda: self.store.run(proposed)).encode()
