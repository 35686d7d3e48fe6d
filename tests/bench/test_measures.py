"""The measures of `make bench`, which no other test runs."""

import importlib

import pytest

from bench.__main__ import MEASURES


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_follows_the_code_that_it_measures(name: str) -> None:
    assert callable(importlib.import_module(f"bench.{MEASURES[name]}.{name}").measure)
