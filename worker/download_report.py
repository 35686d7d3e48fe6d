"""How the download of a model is told: in the worker's record, which clients see, and in its log."""

import logging
import time

from shared.workers import Download
from worker.heartbeat import Heartbeat

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0


class DownloadReport:
    """Called with each news of one download."""

    def __init__(self, model: str, heartbeat: Heartbeat) -> None:
        self._model = model
        self._heartbeat = heartbeat
        self._begin: tuple[float, int] | None = None
        self._logged = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._heartbeat.update(download=Download(bytes_done=done, bytes_total=total) if done < total else None)
        if self._begin is None:
            self._begin = now, done
            logger.info("downloading %s: %.1f of %.1f GB to go", self._model, (total - done) / 1e9, total / 1e9)
        elif done == total or now >= self._logged + LOG_SECONDS:
            rate = (done - self._begin[1]) / max(now - self._begin[0], 1e-3)
            logger.info("%s: %.1f of %.1f GB, %.0f MB/s", self._model, done / 1e9, total / 1e9, rate / 1e6)
        else:
            return
        self._logged = now
