"""The baseline of Celery itself: tasks that do nothing, with results. `celery -A bench.bare_celery worker`"""

import os

from celery import Celery

url = os.environ["BENCH_REDIS_URL"].replace("unix://", "redis+socket://", 1)
app = Celery("bare", broker=url, backend=url)
# A separate key prefix, and one message at a time, as in the service.
app.conf.update(
    broker_transport_options={"global_keyprefix": "bare:"},
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    result_expires=60,
)


@app.task(name="noop")
def noop(number: int) -> int:
    return number
