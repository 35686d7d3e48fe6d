"""What checks look at."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Self, TypeVar

from compose.doctor.asking import ProbeFailed, ProbeResponse, probe
from compose.launcher.up import redis_url_of
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings
from shared.workers.devices import Device
from worker.models.required_files import MODEL_CONFIG
from worker.models.sources import MODEL_SETTINGS, STARTER_NAME, ModelSource

T = TypeVar("T")

#: Importing PyTorch takes 2 s from a warm disk and was seen to take 22 s from a cold one.
PROBE_SECONDS = 60


@dataclass(frozen=True)
class Surroundings:
    """What several checks need is looked up once, beside the checks that do without it."""

    settings: LauncherSettings
    redis_url: str | None
    """None where the embedded server is not running."""
    device: "Future[Device | None]"
    """None where PyTorch is not installed."""
    outside: "Future[Mapping[str, ProbeResponse | ProbeFailed]]"
    """What came of asking the servers that this installation needs."""

    @classmethod
    def of(cls, settings: LauncherSettings) -> Self:
        places = needed(settings)
        device: Future[Device | None] = in_background(lambda: _probed(settings.device) if local(settings) else None)
        return cls(settings, redis_url_of(settings), device, in_background(lambda: {url: probe(url) for url in places}))

    def found_device(self) -> Device | None:
        """None also where it cannot be told; the check `device` says why."""
        try:
            return self.device.result(PROBE_SECONDS)
        except (TimeoutError, subprocess.SubprocessError, ValueError):
            return None

    @property
    def local(self) -> tuple[Backend, ...]:
        """The engines that compute on this machine."""
        return local(self.settings)

    @property
    def models(self) -> tuple[ModelSource, ...]:
        return sources(self.settings)


def local(settings: LauncherSettings) -> tuple[Backend, ...]:
    return tuple(backend for backend in settings.backends if backend in MODEL_SETTINGS)


def sources(settings: LauncherSettings) -> tuple[ModelSource, ...]:
    """The models that the configured engines need, and their safety checker."""
    models = [ModelSource.for_backend(settings, backend) for backend in local(settings)]
    wants = [source for source in models if source.model_id != STARTER_NAME]
    if settings.safety_checker and any(not (source.folder / "safety_checker").is_dir() for source in wants):
        models.append(ModelSource.for_model(settings, settings.safety_checker_id, "SD_SAFETY_CHECKER_ID", MODEL_CONFIG))
    return tuple(models)


def missing(settings: LauncherSettings) -> tuple[ModelSource, ...]:
    """The models that are to be downloaded yet."""
    return tuple(found for found in sources(settings) if found.is_remote and not (found.folder / found.index).is_file())


def needed(settings: LauncherSettings) -> tuple[str, ...]:
    """Addresses that have to answer for everything that is configured to work."""
    hub = [hub_url()] if missing(settings) else []
    return (*hub, *([settings.bfl_base_url] if Backend.FLUX_API in settings.backends else []))


def hub_url() -> str:
    """Hugging Face, or the mirror that HF_ENDPOINT names."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def in_background(work: Callable[[], T]) -> "Future[T]":
    """On a thread that holds up nobody: a pool's threads would be waited for when the program ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _probed(wanted: str) -> Device | None:
    """Raises subprocess.SubprocessError and ValueError where PyTorch is there but cannot be used."""
    if importlib.util.find_spec("torch") is None:
        return None
    command = (sys.executable, "-m", "worker.process.device_probe", wanted)
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=PROBE_SECONDS, check=True)
    return Device.model_validate_json(done.stdout.splitlines()[-1])
