"""The devices for tests of models: the CPU always, and a GPU if there is one."""

import pytest
import torch

#: The same test runs on each, so that tests marked `gpu` are known to work.
ON_EACH_DEVICE = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]
