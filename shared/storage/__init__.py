"""Where images are kept: in a folder, or in a bucket that many machines share."""

from shared.errors import ConfigurationError
from shared.settings.infrastructure import InfrastructureSettings
from shared.storage.folder import FolderStore
from shared.storage.object_store import ObjectStore, StorageTimeouts

#: A client waits for the one, a finished image hangs on the other, and a receiver of webhooks has little time.
API_TIMEOUTS = StorageTimeouts(retry_seconds=3, request_seconds=15)
WORKER_TIMEOUTS = StorageTimeouts(retry_seconds=120, request_seconds=30)
WEBHOOK_TIMEOUTS = StorageTimeouts(retry_seconds=2, request_seconds=5)


def open_storage(settings: InfrastructureSettings, timeouts: StorageTimeouts, public_url: str = "") -> ObjectStore:
    """`public_url` is where clients may fetch images themselves. Raises ConfigurationError."""
    if not settings.output_url:
        return FolderStore(settings.output_dir, timeouts)
    try:
        # 15 MB that only those carry who need it.
        from shared.storage.bucket import BucketLocation, BucketStore
    except ImportError:
        raise ConfigurationError("SD_OUTPUT_URL needs one more package: pip install 'imagegen[s3]'.") from None
    return BucketStore.connect(
        BucketLocation(settings.output_url, public_url, settings.ca_file), settings.output_dir, timeouts
    )
