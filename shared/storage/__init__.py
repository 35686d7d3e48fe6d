"""Where pictures are kept: in a folder, or in a bucket that many machines share."""

from shared.errors import ConfigurationError
from shared.storage.folder import Folder
from shared.storage.home import Remote
from shared.stores import StoreSettings

#: How long what fails is tried again: a client waits for the one, and a finished picture hangs on the other.
API_PATIENCE_SECONDS = 10.0
WORKER_PATIENCE_SECONDS = 120.0


def open_home(settings: StoreSettings, patience_seconds: float, public_url: str = "") -> Folder | Remote:
    """`public_url` is where clients may fetch pictures themselves. Raises ConfigurationError."""
    if not settings.output_url:
        return Folder(settings.output_dir)
    try:
        # 15 MB that only those carry who need it.
        from shared.storage.bucket import Bucket, Place
    except ImportError:
        raise ConfigurationError("SD_OUTPUT_URL needs one more package: pip install 'imagegen[s3]'.") from None
    return Bucket.at(Place(settings.output_url, public_url, settings.ca_file), settings.output_dir, patience_seconds)
