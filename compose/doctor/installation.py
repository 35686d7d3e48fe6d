"""What checks examine: the settings of an installation, its device, and the servers that it needs."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Self, TypeVar

from compose.doctor.http_probe import ProbeFailed, ProbeResponse, probe
from compose.launcher.data_folder import embedded_redis_url
from shared.jobs.types import Backend
from shared.settings.launcher import LauncherSettings
from shared.workers.devices import Device
from worker.models.required_files import MODEL_CONFIG
from worker.models.sources import MODEL_SETTINGS, STARTER_NAME, ModelSource

T = TypeVar("T")

#: Importing PyTorch takes 2 s from a warm disk and took up to 22 s from a cold one.
PROBE_SECONDS = 60


@dataclass(frozen=True)
class Installation:
    """Probes the device and the servers once for all checks, in the background."""

    settings: LauncherSettings
    redis_url: str | None
    """None where the embedded server is not running."""
    device: "Future[Device | None]"
    """None where PyTorch is not installed."""
    responses: "Future[Mapping[str, ProbeResponse | ProbeFailed]]"
    """By URL, for each external server that this installation needs."""

    @classmethod
    def of(cls, settings: LauncherSettings) -> Self:
        urls = required_urls(settings)
        device: Future[Device | None] = in_background(
            lambda: probe_device(settings.device) if local_backends(settings) else None
        )
        responses: Future[Mapping[str, ProbeResponse | ProbeFailed]] = in_background(
            lambda: {url: probe(url) for url in urls}
        )
        return cls(settings, settings.redis_url or embedded_redis_url(settings.data_dir), device, responses)

    def known_device(self) -> Device | None:
        """None also where the probe failed; the check `device` reports the reason."""
        try:
            return self.device.result(PROBE_SECONDS)
        except (TimeoutError, subprocess.SubprocessError, ValueError):
            return None

    @property
    def local_backends(self) -> tuple[Backend, ...]:
        return local_backends(self.settings)

    @property
    def models(self) -> tuple[ModelSource, ...]:
        return required_models(self.settings)


def local_backends(settings: LauncherSettings) -> tuple[Backend, ...]:
    """The backends that compute on this machine."""
    return tuple(backend for backend in settings.backends if backend in MODEL_SETTINGS)


def required_models(settings: LauncherSettings) -> tuple[ModelSource, ...]:
    """The models of the configured backends, and their safety checker."""
    models = [ModelSource.for_backend(settings, backend) for backend in local_backends(settings)]
    checked = [source for source in models if source.model_id != STARTER_NAME]
    if settings.safety_checker and any(not (source.folder / "safety_checker").is_dir() for source in checked):
        models.append(ModelSource.for_model(settings, settings.safety_checker_id, "SD_SAFETY_CHECKER_ID", MODEL_CONFIG))
    return tuple(models)


def missing_models(settings: LauncherSettings) -> tuple[ModelSource, ...]:
    """The models that are not downloaded yet."""
    models = required_models(settings)
    return tuple(model for model in models if model.is_remote and not (model.folder / model.index).is_file())


def required_urls(settings: LauncherSettings) -> tuple[str, ...]:
    """The external servers that the configured backends need."""
    hub = [hub_url()] if missing_models(settings) else []
    return (*hub, *([settings.bfl_base_url] if Backend.FLUX_API in settings.backends else []))


def hub_url() -> str:
    """Hugging Face, or the mirror in HF_ENDPOINT."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def in_background(work: Callable[[], T]) -> "Future[T]":
    """Runs `work` on a daemon thread: Python would wait for the threads of a pool at exit."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def probe_device(setting: str) -> Device | None:
    """Raises subprocess.SubprocessError and ValueError where PyTorch is installed but unusable."""
    if importlib.util.find_spec("torch") is None:
        return None
    command = (sys.executable, "-m", "worker.process.device_probe", setting)
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=PROBE_SECONDS, check=True)
    return Device.model_validate_json(done.stdout.splitlines()[-1])
