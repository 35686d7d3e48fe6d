"""The engine uses parts of PyTorch and diffusers that have no documentation."""

from importlib.metadata import version

import diffusers
from diffusers.models.attention_dispatch import AttentionBackendName

from worker.engines.diffusers.acceleration.attention import CANDIDATES


def test_the_engine_was_tested_with_the_internals_of_these_versions() -> None:
    """After an upgrade, look for these names in the new version and run the tests of `tests/worker/engines/diffusers`,
    and `make gpu` where there is a GPU; then change the versions here.

    Without `_parameters` and `_buffers` of modules (`cuda_graphs.py`), `_optional_components`
    (`pipeline_loading.py`), `_blocks` (`modular.py`) or `_auto_resize` (`modes.py`), tests fail. Without the names
    below, the engine is slower.
    """
    assert version("diffusers").startswith("0.42.")
    assert version("torch").startswith("2.13.")
    # `pipelines.py` replaces it, and the cache of prompts reads it.
    assert hasattr(diffusers.DiffusionPipeline, "_execution_device")
    # `eight_bit.py` quantizes these.
    assert diffusers.FluxTransformer2DModel._repeated_blocks
    # `attention.py` times these.
    assert set(CANDIDATES.values()) <= {backend.value for backend in AttentionBackendName}
