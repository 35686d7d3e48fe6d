"""Loads and applies LoRAs: small additions to a model, from files in the operator's folder."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from shared.errors import InvalidRequest
from shared.jobs.requests import Lora
from worker.engines.diffusers.loading.pipeline_loading import reason_of
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.loras.lora_files import UnusableLora, open_lora
from worker.engines.diffusers.memory.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

#: How many stay loaded; beyond that, the least recently used one is unloaded.
MAX_LOADED = 8


class Loras:
    """The LoRAs of one model. Each is loaded on first use; none is active between jobs."""

    def __init__(self, pipelines: Pipelines, files: Mapping[str, Path], model: str) -> None:
        self._pipelines = pipelines
        self._pipe = pipelines.text
        self._files = files
        self._model = model
        #: Name -> name of the peft adapter, which may not contain dots. In order of use, the most recent one last.
        self._adapters: dict[str, str] = {}
        self._partial_warnings: dict[str, str] = {}

    def require(self, loras: Sequence[Lora]) -> Iterator[str]:
        """Load what is not loaded yet. Returns a warning for each LoRA that has an effect only in part.

        Raises InvalidRequest for a LoRA that does not fit the model.
        """
        for lora in loras:
            adapter = self._adapters.pop(lora.name, None) or self._load(lora.name)
            self._adapters[lora.name] = adapter
        while len(self._adapters) > MAX_LOADED:
            self._pipe.delete_adapters(self._adapters.pop(next(iter(self._adapters))))
        return (self._partial_warnings[lora.name] for lora in loras if lora.name in self._partial_warnings)

    @contextmanager
    def applied(self, loras: Sequence[Lora]) -> Iterator[None]:
        """Apply them to the model for the block. They must be loaded (see `require`)."""
        if not loras:
            yield
            return
        try:
            self._pipe.enable_lora()
            self._pipe.set_adapters([self._adapters[lora.name] for lora in loras], [lora.scale for lora in loras])
            yield
        finally:
            self._pipe.disable_lora()

    def _load(self, name: str) -> str:
        adapter = f"lora_{list(self._files).index(name)}"
        self._pipelines.deactivate_offloading()
        try:
            total, used = self._add(adapter, self._files[name])
        # diffusers and peft raise all kinds of errors on files for another model.
        except Exception as error:
            self._remove(adapter)
            if is_out_of_memory(error):
                raise
            logger.warning("the LoRA %s could not be loaded: %s", name, reason_of(error))
            raise InvalidRequest(f"The LoRA {name} {_public_reason(error, self._model)}.") from error
        if used < total:
            self._partial_warnings[name] = (
                f"of the LoRA {name}, {total - used} of {total} weights have no effect: they are for parts that "
                f"{self._model} does not have, or of a kind that diffusers cannot use"
            )
        # Loading activates it.
        self._pipe.disable_lora()
        return adapter

    def _add(self, adapter: str, path: Path) -> tuple[int, int]:
        """How many weights the file has, and how many of them the model uses."""
        with open_lora(path, self._pipelines.denoiser_name) as file:
            match file.source:
                case Path():
                    link = {"weight_name": file.source.name, "use_safetensors": True, "local_files_only": True}
                    self._pipe.load_lora_weights(str(file.source.parent), adapter_name=adapter, **link)
                case weights:
                    self._pipe.load_lora_weights(weights, adapter_name=adapter)
        used = self._weights_of(adapter)
        if not used:
            raise UnusableLora("none of its weights belongs to a layer of the model")
        return file.weights, used

    def _weights_of(self, adapter: str) -> int:
        return sum(f".{adapter}." in key for part in self._pipelines.parts for key, _ in part.named_parameters())

    def _remove(self, adapter: str) -> None:
        """Remove what was loaded before the failure."""
        with suppress(Exception):
            self._pipe.delete_adapters(adapter)


def _public_reason(error: Exception, model: str) -> str:
    """For callers: without paths and names of libraries."""
    match error:
        case SafetensorError() | EOFError():
            return "cannot be used: its file is damaged"
        case OSError():
            return "cannot be used: its file cannot be read"
        case UnusableLora():
            return f"does not fit the model {model}: {error}"
        case _ if "size mismatch" in str(error):
            return f"does not fit the model {model}: its layers have different sizes"
        case _:
            return f"does not fit the model {model}"
