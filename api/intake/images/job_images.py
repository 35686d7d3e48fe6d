"""Reads the images of earlier jobs, as inputs of new ones."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

from api.edge.authentication import Caller
from api.edge.signed_links import LinkSecret
from shared.access.links import IMAGE_PATH
from shared.errors import ImageNotFound, JobNotFound
from shared.jobs.snapshots import JobSnapshot
from shared.storage.image_chunks import read_chunks
from shared.storage.images import ImageStore

#: Behind the address of this service, which may be one that it does not know, such as that of a proxy.
_LINK = re.compile(rf"{IMAGE_PATH.pattern}\Z")


class JobImages:
    """A link to an image of this service is not fetched: its address is often a private one, and the file is here."""

    def __init__(
        self, store: ImageStore, read_job: Callable[[str, str | None], Awaitable[JobSnapshot]], links: LinkSecret
    ) -> None:
        self._store = store
        self._read_job = read_job
        self._links = links

    async def read(self, job_id: str, index: int, owner: str | None) -> AsyncIterator[bytes]:
        """Raises JobNotFound (also for jobs of others), ImageNotFound, StoreUnavailable and StorageUnavailable."""
        job = (await self._read_job(job_id, owner)).job
        image = next((image for image in job.images if image.index == index), None)
        if image is None or image.flagged:
            raise ImageNotFound
        return await read_chunks(self._store, job, image)

    async def read_link(self, url: str, caller: Caller) -> AsyncIterator[bytes] | None:
        """The image that the URL links to, if the link is signed or the caller may see the job.

        None if there is none, or the link is to something else. Raises StoreUnavailable and StorageUnavailable.
        """
        if (link := _link(url)) is None:
            return None
        is_signed = await self._links.authorizes("GET", link[0], urlsplit(url).query.encode())
        try:
            return await self.read(link[1], int(link[2]), None if is_signed else caller.visible_owner)
        except (JobNotFound, ImageNotFound):
            return None


def is_link(url: str) -> bool:
    """Whether it looks like a link to an image of a service like this one."""
    return _link(url) is not None


def _link(url: str) -> re.Match[str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    # Links to thumbnails have a width.
    return None if "width=" in parts.query else _LINK.search(parts.path)
