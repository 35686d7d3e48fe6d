"""Imports what Celery serializes messages with, without the formats that nothing here uses.

Where a library for YAML or MessagePack is installed, Kombu imports it: 1 MB in every process with Celery. Import this
before Celery.
"""

from shared.redis import not_importable

with not_importable(("msgpack", "yaml")):
    import kombu.serialization  # noqa: F401
