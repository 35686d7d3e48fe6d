"""Where pictures are kept: in a folder, or in a bucket that many machines share."""

from shared.errors import ConfigurationError
from shared.settings.infrastructure import StoreSettings
from shared.storage.folder import Folder
from shared.storage.object_store import Home, Patience

#: A client waits for the one, a finished picture hangs on the other, and a receiver of webhooks has little time.
API_PATIENCE = Patience(seconds=3, request_seconds=15)
WORKER_PATIENCE = Patience(seconds=120, request_seconds=30)
COURIER_PATIENCE = Patience(seconds=2, request_seconds=5)


def open_home(settings: StoreSettings, patience: Patience, public_url: str = "") -> Home:
    """`public_url` is where clients may fetch pictures themselves. Raises ConfigurationError."""
    if not settings.output_url:
        return Folder(settings.output_dir, patience)
    try:
        # 15 MB that only those carry who need it.
        from shared.storage.bucket import Bucket, Place
    except ImportError:
        raise ConfigurationError("SD_OUTPUT_URL needs one more package: pip install 'imagegen[s3]'.") from None
    return Bucket.at(Place(settings.output_url, public_url, settings.ca_file), settings.output_dir, patience)
