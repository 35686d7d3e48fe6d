"""LoRAs: small additions to a model, from files that the operator has put into one folder."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.errors import InvalidRequest
from shared.schemas import LORA_NAME, Lora
from worker.backends.memory import is_out_of_memory

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
#: How many stay loaded. One that no job has named for the longest time makes room.
MOST_LOADED = 8


def found_in(folder: Path) -> dict[str, Path]:
    """Files by the names that requests have for them: those of the files, or of folders with one file each."""
    found = {path.stem: path for path in folder.glob(f"*{SUFFIX}") if path.is_file()}
    for inner in (path for path in folder.glob("*") if path.is_dir()):
        files = list(inner.glob(f"*{SUFFIX}"))
        if len(files) == 1:
            found.setdefault(inner.name, files[0])
    for name in [name for name in found if not re.fullmatch(LORA_NAME, name)]:
        logger.warning("the LoRA %s is left out: a name may have letters, digits, blanks and ._- only", found.pop(name))
    return dict(sorted(found.items()))


class Loras:
    """What can be added to one model. Loaded when first asked for; without effect between jobs."""

    def __init__(self, pipe: Any, files: Mapping[str, Path], model: str) -> None:
        self._pipe = pipe
        self._files = files
        self._model = model
        #: Under the names that peft has for them, which may have no dots; the one used last is the last.
        self._loaded: dict[str, str] = {}

    def require(self, wanted: Sequence[Lora]) -> None:
        """Load those that are not. Raises InvalidRequest for one that does not fit the model."""
        for lora in wanted:
            adapter = self._loaded.pop(lora.name, None) or self._load(lora.name)
            self._loaded[lora.name] = adapter
        while len(self._loaded) > MOST_LOADED:
            self._pipe.delete_adapters(self._loaded.pop(next(iter(self._loaded))))

    @contextmanager
    def applied(self, wanted: Sequence[Lora]) -> Iterator[None]:
        """To the model, until the block is left. Those wanted must have been required."""
        if not wanted:
            yield
            return
        try:
            self._pipe.enable_lora()
            self._pipe.set_adapters([self._loaded[lora.name] for lora in wanted], [lora.scale for lora in wanted])
            yield
        finally:
            self._pipe.disable_lora()

    def _load(self, name: str) -> str:
        file = self._files[name]
        adapter = f"lora_{list(self._files).index(name)}"
        try:
            self._pipe.load_lora_weights(
                str(file.parent),
                weight_name=file.name,
                adapter_name=adapter,
                use_safetensors=True,
                local_files_only=True,
            )
            fits = any(adapter in adapters for adapters in self._pipe.get_list_adapters().values())
        # Whatever diffusers and peft stumble over in a file that was made for another model.
        except Exception as error:
            self._forget(adapter)
            if is_out_of_memory(error):
                raise
            logger.warning("the LoRA %s could not be loaded: %s", name, error)
            fits = False
        if not fits:
            raise InvalidRequest(f"The LoRA {name} does not fit the model {self._model}.")
        # It has just become active.
        self._pipe.disable_lora()
        return adapter

    def _forget(self, adapter: str) -> None:
        """What of it came in before it failed."""
        with suppress(Exception):
            self._pipe.delete_adapters(adapter)
