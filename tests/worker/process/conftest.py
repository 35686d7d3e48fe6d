from collections.abc import Iterator

import pytest

from tests.stack import Stack
from tests.support.process import Process


@pytest.fixture(scope="session")
def cold(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A worker whose child has imported its model libraries itself, as in production."""
    with Stack(redis_url, tmp_path_factory.mktemp("cold"), SD_BACKENDS="sd") as stack:
        stack.warm = False
        yield stack.start_worker("sd")
