"""Finds jobs by what no index covers, with a bounded number of records read for each request."""

from collections.abc import Awaitable, Callable

from api.services import Services
from shared.jobs.snapshots import JobFilter, JobPage, JobSnapshot

#: Records that one call to Redis reads, and calls for one request.
RECORDS_PER_CALL, MAX_CALLS = 250, 8


async def find_jobs(
    services: Services, wanted: JobFilter, limit: int, cursor: str | None, charge: Callable[[int], Awaitable[None]]
) -> JobPage:
    """The newest matching jobs. A short page with a cursor means that older jobs have not been searched yet.

    `charge` is called before each call to Redis. Raises what it raises, and StoreUnavailable.
    """
    found: list[JobSnapshot] = []
    for _ in range(MAX_CALLS):
        await charge(1)
        page = await services.store.run(services.jobs.list_page(wanted, RECORDS_PER_CALL, cursor))
        found += page.jobs
        if len(found) > limit:
            return JobPage(tuple(found[:limit]), found[limit - 1].job.id)
        cursor = page.cursor
        if cursor is None or len(found) == limit:
            break
    return JobPage(tuple(found), cursor)
