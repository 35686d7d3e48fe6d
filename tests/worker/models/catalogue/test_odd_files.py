"""Files that were written by nobody known."""

import os
from pathlib import Path

from shared.models.catalogue import ModelState
from tests.worker.models.catalogue.test_catalogue import states
from tests.worker.models.checkpoints.headers import sd15_shapes, write_header


def test_headers_that_nobody_thought_of_cost_no_other_model(tmp_path: Path) -> None:
    shapes = sd15_shapes()
    scalar = {name: () if name.endswith("attn2.to_k.weight") else shape for name, shape in shapes.items()}
    lacking = {name: shape for name, shape in shapes.items() if not name.endswith("proj_in.weight")}
    for name, header in {"lacking": lacking, "scalar": scalar, "usual": shapes}.items():
        write_header(tmp_path / f"{name}.safetensors", header)

    found = states(tmp_path)

    assert found == {"lacking": ModelState.BROKEN, "scalar": ModelState.BROKEN, "usual": ModelState.AVAILABLE}


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    write_header(tmp_path / "usual.safetensors", sd15_shapes())

    assert states(tmp_path) == {"usual": ModelState.AVAILABLE}
