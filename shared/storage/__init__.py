"""Store images in a folder or in an S3-compatible bucket."""

from shared.errors import ConfigurationError
from shared.settings.explanations import install_command
from shared.settings.infrastructure import InfrastructureSettings
from shared.storage.folder import FolderStore
from shared.storage.object_store import ObjectStore, StorageTimeouts

#: Clients wait for the API, a finished image depends on the worker, and receivers of webhooks have little time.
API_TIMEOUTS = StorageTimeouts(retry_seconds=3, request_seconds=15)
WORKER_TIMEOUTS = StorageTimeouts(retry_seconds=120, request_seconds=30)
WEBHOOK_TIMEOUTS = StorageTimeouts(retry_seconds=2, request_seconds=5)


def open_storage(settings: InfrastructureSettings, timeouts: StorageTimeouts, public_url: str = "") -> ObjectStore:
    """Open the configured storage; `public_url` is its URL for clients, if any. Raises ConfigurationError."""
    if not settings.output_url:
        return FolderStore(settings.output_dir, timeouts)
    try:
        # Imported late: it takes 15 MB, which only installations with a bucket need.
        from shared.storage.bucket import BucketStore
        from shared.storage.bucket_connection import BucketLocation
    except ImportError:
        raise ConfigurationError(f"SD_OUTPUT_URL requires another package: {install_command('s3')}") from None
    location = BucketLocation(settings.output_url, public_url, settings.ca_file)
    return BucketStore.connect(location, settings.output_dir, timeouts)
