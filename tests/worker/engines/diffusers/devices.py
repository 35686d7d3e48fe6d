"""Where tests of models run: on the CPU in every run, and on a GPU where there is one."""

import pytest
import torch

#: The very same test on each, so that what is marked `gpu` is known to run.
ON_EACH_DEVICE = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]
