"""Unmodified clients of other services, pointed at this one."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.stack import Stack


@pytest.fixture(scope="session")
def openai_client(sd: Stack) -> Iterator[openai.OpenAI]:
    """Refuses answers that do not have the types that the package declares."""
    with openai_for(sd.api.url) as client:
        yield client


def openai_for(url: str, key: str = "none", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, _strict_response_validation=True, **options)
