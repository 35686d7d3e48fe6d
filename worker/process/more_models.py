"""Downloads the models of SD_MODELS while the worker runs jobs of others."""

import logging
import threading

from shared.errors import ConfigurationError
from shared.settings.service import PREFIX
from shared.settings.worker import WorkerSettings
from worker.models.download_plans import OnProgress
from worker.models.sources import ModelSource

logger = logging.getLogger(__name__)


def download_in_background(settings: WorkerSettings, on_progress: OnProgress) -> None:
    """Download the missing models one after the other. Other workers that need one wait for the download."""
    sources = [ModelSource.for_model(settings, name, f"{PREFIX}MODELS") for name in settings.models]
    if sources:
        threading.Thread(target=_download, args=(sources, on_progress), name="more-models", daemon=True).start()


def _download(sources: list[ModelSource], on_progress: OnProgress) -> None:
    for source in sources:
        try:
            source.ensure_downloaded(on_progress)
        # The worker goes on without this model; the catalogue says that it is missing.
        except ConfigurationError as error:
            logger.warning("a model of SD_MODELS is not offered: %s", error.detail)
