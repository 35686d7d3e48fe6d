"""Webhook signatures as specified by https://www.standardwebhooks.com."""

import base64
import hashlib
import hmac
import logging
from collections.abc import Sequence
from datetime import datetime

logger = logging.getLogger(__name__)


class WebhookSigner:
    """Signs with every key, so that receivers can rotate keys at their own pace."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)
        self._warned = False

    def headers(self, webhook_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """`now` is the time of this attempt: receivers refuse signatures that are minutes old."""
        timestamp = str(int(now.timestamp()))
        signed = b".".join((webhook_id.encode(), timestamp.encode(), body))
        headers = {"webhook-id": webhook_id, "webhook-timestamp": timestamp}
        if self._keys:
            headers["webhook-signature"] = " ".join(_signature(key, signed) for key in self._keys)
        elif not self._warned:
            self._warned = True
            logger.warning(
                "SD_WEBHOOK_SECRET is empty: webhooks are not signed, so receivers cannot verify who sent them"
            )
        return headers


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
