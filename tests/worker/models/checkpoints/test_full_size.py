"""Files of the usual size give the configurations that their publishers give, whoever trained them."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from tests.worker.engines.diffusers.checkpoints.tiny_models import single_file
from tests.worker.models.checkpoints.headers import write_header
from worker.models.checkpoints import configurations
from worker.models.checkpoints.assembly import FAMILY_NAMES
from worker.models.checkpoints.header import read_header
from worker.models.checkpoints.recognition import recognise

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


class Parts:
    """The parts of a pipeline, without memory for their weights."""

    def __init__(self, family: str) -> None:
        index = configurations.index_of(family)
        for part, name in configurations.names_of_parts(family).items():
            if part != "scheduler" and not configurations.is_tokenizer(name):
                library, kind = index[part]
                with torch.device("meta"):
                    setattr(self, part, _made(library, kind, configurations.configuration(name)))


def _made(library: str, kind: str, config: dict[str, Any]) -> Any:
    if library == "diffusers":
        return getattr(diffusers, kind).from_config(config)
    made = getattr(transformers, kind)
    return made(made.config_class(**config))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_shapes_give_the_published_configuration(family: str, tmp_path: Path) -> None:
    tensors = {
        name: tuple(tensor.shape) for part in single_file(family, Parts(family)) for name, tensor in part.items()
    }
    header = read_header(write_header(tmp_path / "model.safetensors", tensors))

    found = recognise(header, "model")

    assert (found.family, found.missing) == (family, ())
    for part, name in configurations.names_of_parts(family).items():
        if part in found.roles:
            derived, published = dict(found.configs[part]), configurations.configuration(name)
            assert {key: derived.get(key) for key in published} == published, part
