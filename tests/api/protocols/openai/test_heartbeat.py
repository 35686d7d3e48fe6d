"""A silent stream has heartbeats."""

from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest

from api.protocols.openai import streaming


@pytest.mark.anyio
async def test_silence_is_filled_with_comments() -> None:
    """Proxies close what is silent for too long; clients skip comments."""

    async def silent() -> AsyncIterator[None]:
        yield None
        yield None

    submitted = Mock(job_id="a", listener=Mock(events=silent))

    *beats, last = [part async for part in streaming.JobStream(Mock(), Mock(), submitted).events()]

    assert beats == [b": heartbeat\n\n"] * 2
    # The process stops before the job ends.
    assert b"not-finished" in last
