"""LoRAs: small additions to a model, from files that the operator has put into one folder."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from shared.errors import InvalidRequest
from shared.jobs.requests import Lora
from worker.engines.diffusers.out_of_memory import is_out_of_memory
from worker.engines.diffusers.pipeline_loading import reason_of
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.engines.diffusers.stable_diffusion.lora_files import NoLora, diffusers_lora

logger = logging.getLogger(__name__)

#: How many stay loaded. One that no job has named for the longest time makes room.
MOST_LOADED = 8


class Loras:
    """What can be added to one model. Loaded when first asked for; without effect between jobs."""

    def __init__(self, engine: Pipelines, files: Mapping[str, Path], model: str) -> None:
        self._engine = engine
        self._pipe = engine.text
        self._files = files
        self._model = model
        #: Under the names that peft has for them, which may have no dots; the one used last is the last.
        self._loaded: dict[str, str] = {}
        self._in_part: dict[str, str] = {}

    def require(self, wanted: Sequence[Lora]) -> Iterator[str]:
        """Load those that are not. Gives a sentence for each of which only a part has an effect.

        Raises InvalidRequest for one that does not fit the model.
        """
        for lora in wanted:
            adapter = self._loaded.pop(lora.name, None) or self._load(lora.name)
            self._loaded[lora.name] = adapter
        while len(self._loaded) > MOST_LOADED:
            self._pipe.delete_adapters(self._loaded.pop(next(iter(self._loaded))))
        return (self._in_part[lora.name] for lora in wanted if lora.name in self._in_part)

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
        adapter = f"lora_{list(self._files).index(name)}"
        self._engine.bare()
        try:
            there, used = self._add(adapter, self._files[name])
        # Whatever diffusers and peft stumble over in a file that was made for another model.
        except Exception as error:
            self._forget(adapter)
            if is_out_of_memory(error):
                raise
            logger.warning("the LoRA %s could not be loaded: %s", name, reason_of(error))
            raise InvalidRequest(f"The LoRA {name} {_told(error, self._model)}.") from error
        if used < there:
            self._in_part[name] = (
                f"of the LoRA {name}, {there - used} of {there} weights have no effect: they are for parts that "
                f"{self._model} does not have, or of a kind that diffusers cannot use"
            )
        # It has just become active.
        self._pipe.disable_lora()
        return adapter

    def _add(self, adapter: str, path: Path) -> tuple[int, int]:
        """How many weights the file has, and how many of them the model has taken."""
        with diffusers_lora(path) as file:
            match file.source:
                case Path():
                    link = {"weight_name": file.source.name, "use_safetensors": True, "local_files_only": True}
                    self._pipe.load_lora_weights(str(file.source.parent), adapter_name=adapter, **link)
                case weights:
                    self._pipe.load_lora_weights(weights, adapter_name=adapter)
        used = self._weights_of(adapter)
        if not used:
            raise NoLora("none of its weights belongs to a layer of the model")
        return file.weights, used

    def _weights_of(self, adapter: str) -> int:
        return sum(f".{adapter}." in key for part in self._engine.parts for key, _ in part.named_parameters())

    def _forget(self, adapter: str) -> None:
        """What of it came in before it failed."""
        with suppress(Exception):
            self._pipe.delete_adapters(adapter)


def _told(error: Exception, model: str) -> str:
    """For callers, who need not know where files lie and what libraries are called."""
    match error:
        case SafetensorError() | EOFError():
            return "cannot be used: its file is damaged"
        case OSError():
            return "cannot be used: its file cannot be read"
        case NoLora():
            return f"does not fit the model {model}: {error}"
        case _ if "size mismatch" in str(error):
            return f"does not fit the model {model}: its layers have other sizes"
        case _:
            return f"does not fit the model {model}"
