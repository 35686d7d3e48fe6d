"""What the API asks of Redis: a job is accepted, and a poll answered, in one round trip over the one connection."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import pytest
import redis

from shared.redis.store import digest_of
from tests.api.native.test_jobs import submit
from tests.stack import Api, Stack

CALLS = 20
SCRIPTS = {digest_of(name): name for name in ("jobs/create", "jobs/read", "limits/rate_limit", "workers/list")}
#: Reads that many requests share, whatever they are.
SHARED = {"limits/rate_limit", "workers/list"}


@dataclass
class Commands:
    scripts: Counter[str] = field(default_factory=Counter)
    connections: set[str] = field(default_factory=set)


@contextmanager
def commands(stack: Stack) -> Iterator[Commands]:
    """After the block: the scripts of this service that it caused, and over which connections."""
    found = Commands()
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as server, server.monitor() as monitor:
        yield found
        server.echo("the end")
        for command in takewhile(lambda command: "the end" not in command["command"], monitor.listen()):
            _count(found, command, stack.prefix)


def _count(found: Commands, command: dict[str, Any], prefix: str) -> None:
    name, _, rest = str(command["command"]).partition(" ")
    # Commands inside of scripts have no connection.
    if name.upper() == "EVALSHA" and prefix in rest:
        digest = rest.partition(" ")[0]
        found.scripts[SCRIPTS.get(digest, digest)] += 1
        found.connections.add(f"{command['client_address']}:{command['client_port']}")


@pytest.mark.parametrize(
    ("script", "ask"),
    [
        ("jobs/create", lambda api, _: api.post("/api/jobs", {"prompt": "x"})),
        ("jobs/read", lambda api, job: api.get(job["links"]["self"])),
    ],
)
def test_a_request_takes_one_round_trip(idle: Stack, script: str, ask: Callable[[Api, dict[str, Any]], Any]) -> None:
    job = submit(idle.api)
    with commands(idle) as found:
        answers = [ask(idle.api, job) for _ in range(CALLS)]
    for path in {job["links"]["self"], *(answer.json()["links"]["self"] for answer in answers)}:
        assert idle.api.delete(path).ok

    assert found.scripts[script] == CALLS
    assert found.scripts.keys() <= {script, *SHARED}
    # Units of the rate limit are reserved fifteen at a time.
    assert found.scripts["limits/rate_limit"] <= CALLS // 15 + 1
    assert len(found.connections) == 1
