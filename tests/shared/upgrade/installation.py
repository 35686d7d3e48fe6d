"""Restores the recorded installation of the version before, as if it had been recorded just now."""

import base64
import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import redis

FOLDER = Path(__file__).parent
_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
#: Times in ms stand alone, in JSON and in ids of events; those in the names of jobs and webhooks stay.
_MS = re.compile(r"(?<![\w.])1[5-9]\d{11}(?!\d)(?!\.\d)")


@dataclass(frozen=True)
class Installation:
    settings: dict[str, str]
    jobs: dict[str, str]
    """Ids by the names that record.py gave the jobs."""
    content: dict[str, Any]
    restored_at: float = field(default_factory=time.time)

    @classmethod
    def read(cls, receiver: str) -> "Installation":
        """`receiver` takes the place of the origin at which nothing listened."""
        text = (FOLDER / "installation.json").read_text()
        content = json.loads(text)
        content = json.loads(text.replace(content["receiver"], receiver))
        return cls(content["settings"], content["jobs"], content)

    def restore_files(self, outputs: Path) -> None:
        for name, data in self.content["files"].items():
            path = outputs / (name if name.startswith("inputs/") else self._image_path(Path(name).name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(data))

    def _image_path(self, name: str) -> str:
        """Images lie in a folder of the day on which their job was created."""
        doc = json.loads(self.content["keys"][f"job:{name[:36]}"][2]["doc"])
        return f"{datetime.fromisoformat(_iso(doc['created_at'], self.seconds)):%Y/%m/%d}/{name}"

    @property
    def seconds(self) -> float:
        """How long ago it was recorded."""
        return self.restored_at - float(self.content["recorded_at"])

    def restore_keys(self, client: redis.Redis, prefix: str) -> None:
        for name, (kind, ttl_ms, value) in self.content["keys"].items():
            key = prefix + name
            # Scores of the queue are no times; the lease of the worker that was killed has run out meanwhile.
            is_kept = name.startswith("line:") or name == "leases"
            _restore(client, key, kind, value if is_kept else _shifted(value, self.seconds))
            if ttl_ms > 0:
                client.pexpire(key, ttl_ms)


def _restore(client: redis.Redis, key: str, kind: str, value: Any) -> None:
    match kind:
        case "string":
            client.set(key, value)
        case "hash":
            client.hset(key, mapping=value)
        case "list":
            client.rpush(key, *value)
        case "set":
            client.sadd(key, *value)
        case "zset":
            client.zadd(key, dict(value))
        case "stream":
            for event_id, fields in value:
                client.xadd(key, fields, event_id)
        case _:
            raise ValueError(kind)


def _shifted(value: Any, seconds: float) -> Any:
    """With every time in it moved, so that deadlines, leases and retries are as they were."""
    match value:
        case dict():
            return {name: _shifted(item, seconds) for name, item in value.items()}
        case list():
            return [_shifted(item, seconds) for item in value]
        case float() if value > 1e12:
            return value + seconds * 1000
        case float() if value > 1e9:
            return value + seconds
        case str():
            moved = _ISO.sub(lambda found: _iso(found[0], seconds), value)
            return _MS.sub(lambda found: str(round(int(found[0]) + seconds * 1000)), moved)
        case _:
            return value


def _iso(text: str, seconds: float) -> str:
    return (datetime.fromisoformat(text) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
