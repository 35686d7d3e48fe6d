"""How long after its picture has its name a job's webhook arrives.

    python -m bench.webhooks [--jobs N]

Real processes, a receiver on loopback that checks every signature, one job at a time. Prints the median, the 90th
percentile and the maximum in ms, from the rename of the file to the whole request. Exits with 1 when the median is over
its limit.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.stack import Stack, valkey_server
from tests.webhooks.receiver import SECRET, Receiver, receiving

LIMIT_MS = 20.0


def spent_ms(stack: Stack, receiver: Receiver, jobs: int) -> Iterator[float]:
    for _ in range(jobs):
        job = stack.api.post("/api/jobs", {"prompt": "x", "webhook_url": receiver.url}).json()
        arrival = receiver.next()
        arrival.verify()
        (picture,) = stack.outputs.rglob(f"{job['id']}-0.png")
        # A rename is a change of the file's status, and the last one that it sees.
        yield (arrival.at - picture.stat().st_ctime) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as name, receiving() as receiver, valkey_server(Path(name)) as url:
        settings = {"SD_BACKENDS": "null", "SD_WEBHOOK_ALLOW": receiver.origin, "SD_WEBHOOK_SECRET": SECRET}
        with Stack(url, Path(name), **settings) as stack:
            stack.start_worker("null")
            stack.start_api()
            stack.start_housekeeper()
            spent = sorted(spent_ms(stack, receiver, jobs))
    median = statistics.median(spent)
    print(f"picture named -> webhook received: p50 {median:.1f} ms, p90 {spent[len(spent) * 9 // 10]:.1f} ms, "
          f"max {spent[-1]:.1f} ms over {jobs} jobs (limit: p50 {LIMIT_MS:.0f} ms)")  # fmt: skip
    return int(median > LIMIT_MS)


if __name__ == "__main__":
    sys.exit(main())
