"""Fixtures for tests that compile."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing that this test compiles is used by the next one. Without gradients, as in a worker."""
    with torch.no_grad():
        yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()
