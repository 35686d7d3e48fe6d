"""How downloads of models are told: in the worker's record, which clients see, and in its log."""

import logging
import time

from shared.workers.records import Download
from worker.models.download_plans import format_bytes
from worker.records.heartbeat import Heartbeat

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0


class DownloadReport:
    """Called with each news of one download after the other."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._model = ""
        self._begin = 0.0, 0
        self._logged = 0.0

    def __call__(self, model: str, done: int, total: int) -> None:
        now = time.monotonic()
        download = Download(model=model, bytes_done=done, bytes_total=total)
        self._heartbeat.update(download=download if done < total else None)
        if model != self._model:
            self._model, self._begin = model, (now, done)
            logger.info("downloading %s: %s of %s to go", model, format_bytes(total - done), format_bytes(total))
        elif done == total or now >= self._logged + LOG_SECONDS:
            begin, before = self._begin
            rate = (done - before) / max(now - begin, 1e-3)
            logger.info("%s: %s of %s, %.0f MB/s", model, format_bytes(done), format_bytes(total), rate / 1e6)
        else:
            return
        self._logged = now
