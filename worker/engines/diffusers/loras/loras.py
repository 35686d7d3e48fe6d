"""Loads and applies LoRAs: small additions to a model, from files in the operator's folder."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError

from shared.errors import InvalidRequest
from shared.jobs.requests import Lora
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.loras.lora_files import UnusableFile, find_loras, read_lora
from worker.engines.diffusers.memory.errors import is_out_of_memory, reason_of
from worker.models.contents.fingerprint import revision_of
from worker.models.contents.part_sources import is_changed_by_loras
from worker.models.placements import Quantization

logger = logging.getLogger(__name__)

#: How many stay loaded; beyond that, the least recently used one is unloaded.
MAX_LOADED = 8


@dataclass(frozen=True)
class _Adapter:
    """A loaded LoRA."""

    name: str
    """Of the peft adapter, which may not contain dots."""
    version: str
    """Of its file."""
    warning: str | None


class Loras:
    """The LoRAs of one model. Each is loaded on first use; none is active between jobs."""

    def __init__(self, pipelines: Pipelines, folder: Path | None, model: str, forget: Callable[[], None]) -> None:
        """`forget` clears caches; it is called when a LoRA file has been replaced."""
        self._pipelines = pipelines
        self._pipe = pipelines.text
        self._folder = folder
        self._model = model
        self._forget = forget
        #: By name, in order of use, the most recent one last.
        self._adapters: dict[str, _Adapter] = {}
        self._numbers = itertools.count()
        #: Where peft has put layers of its own in the place of the model's: parent, name, layer.
        self._added: list[tuple[torch.nn.Module, str, BaseTunerLayer]] | None = None
        #: peft switches the gradients of some of them off.
        self._weights = [one for part in pipelines.parts for one in part.parameters() if one.requires_grad]
        if not is_changed_by_loras(type(getattr(self._pipe, "text_encoder", None)).__name__):
            # Other models may have the same encoder. What a file has for it counts as without effect.
            self._pipe.load_lora_into_text_encoder = lambda *_, **__: None

    def require(self, loras: Sequence[Lora]) -> Iterator[str]:
        """Load what is not loaded yet, or is another file now. Returns a warning for each LoRA that has an effect only
        in part.

        Raises InvalidRequest for a LoRA that does not fit the model.
        """
        files = find_loras(self._folder) if loras else {}
        for lora in loras:
            file = files.get(lora.name)
            if file is None:
                raise InvalidRequest(f"The LoRA {lora.name} is no longer in SD_LORA_DIR.")
            adapter = self._adapters.pop(lora.name, None)
            version = revision_of(file)
            if adapter is not None and adapter.version != version:
                self._delete(adapter)
                self._forget()
                adapter = None
            self._adapters[lora.name] = adapter or self._load(lora.name, file, version)
        while len(self._adapters) > MAX_LOADED:
            self._delete(self._adapters.pop(next(iter(self._adapters))))
        warnings = (self._adapters[lora.name].warning for lora in loras)
        return (warning for warning in warnings if warning is not None)

    @contextmanager
    def applied(self, loras: Sequence[Lora]) -> Iterator[None]:
        """Apply them to the model for the block. They must be loaded (see `require`)."""
        if not loras:
            with self._none_added():
                yield
            return
        try:
            self._pipe.enable_lora()
            self._pipe.set_adapters([self._adapters[lora.name].name for lora in loras], [lora.scale for lora in loras])
            yield
        finally:
            self._pipe.disable_lora()

    @contextmanager
    def _none_added(self) -> Iterator[None]:
        """The model as it was before its first LoRA, for the block.

        Compiled code fits no other layers, and PyTorch multiplies weights without gradients in another order.
        """
        if self._added is None:
            self._added = [
                (parent, name, layer)
                for part in self._pipelines.parts
                for parent in part.modules()
                for name, layer in parent.named_children()
                if isinstance(layer, BaseTunerLayer)
            ]
        for parent, name, layer in self._added:
            setattr(parent, name, layer.get_base_layer())
        frozen = [weight for weight in self._weights if not weight.requires_grad]
        for weight in frozen:
            weight.requires_grad = True
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad = False
            for parent, name, layer in self._added:
                setattr(parent, name, layer)

    def _delete(self, adapter: _Adapter) -> None:
        self._pipe.delete_adapters(adapter.name)
        self._added = None

    def _load(self, name: str, file: Path, version: str) -> "_Adapter":
        if self._pipelines.quantization is not Quantization.NONE:
            # peft would give its layers the type of the weights, in which nothing is left of most LoRAs.
            raise InvalidRequest(
                f"LoRAs cannot be used with {self._model}: its weights are stored as {self._pipelines.quantization} "
                "(SD_QUANTIZE), because they do not fit otherwise or the operator wants it."
            )
        adapter = f"lora_{next(self._numbers)}"
        self._pipelines.deactivate_offloading()
        self._added = None
        try:
            total, used = self._add(adapter, file)
        # diffusers and peft raise all kinds of errors on files for another model.
        except Exception as error:
            # A part of the file may have been loaded before the failure.
            with suppress(Exception):
                self._pipe.delete_adapters(adapter)
            if is_out_of_memory(error):
                raise
            logger.warning("the LoRA %s could not be loaded: %s", name, reason_of(error))
            raise InvalidRequest(f"The LoRA {name} {_public_reason(error, self._model)}.") from error
        warning = None
        if used < total:
            warning = (
                f"of the LoRA {name}, {total - used} of {total} weights have no effect: they are for parts that "
                f"{self._model} does not have, or of a kind that diffusers cannot use"
            )
        # Loading activates it.
        self._pipe.disable_lora()
        return _Adapter(adapter, version, warning)

    def _add(self, adapter: str, path: Path) -> tuple[int, int]:
        """How many weights the file has, and how many of them the model uses."""
        layers = dict(self._pipelines.denoiser.named_modules())
        file = read_lora(path, self._pipelines.denoiser_name, layers)
        self._pipe.load_lora_weights(file.source, adapter_name=adapter, use_safetensors=True, local_files_only=True)
        parts = self._pipelines.parts
        used = sum(f".{adapter}." in key for part in parts for key, _ in part.named_parameters())
        if not used:
            raise UnusableFile("none of its weights belongs to a layer of the model")
        return file.weights, used


def _public_reason(error: Exception, model: str) -> str:
    """For callers: without paths and names of libraries."""
    match error:
        case SafetensorError() | EOFError():
            return "cannot be used: its file is damaged"
        case OSError():
            return "cannot be used: its file cannot be read"
        case UnusableFile():
            return f"does not fit the model {model}: {error}"
        case _ if "size mismatch" in str(error):
            return f"does not fit the model {model}: its layers have different sizes"
        case _:
            return f"does not fit the model {model}"
