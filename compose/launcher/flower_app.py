"""Flower with a Celery app that knows only the broker: without the worker's code and settings it takes 25 MB less."""

import json
import os
from types import SimpleNamespace

import click

import shared.redis.celery_formats  # noqa: F401 - before Celery
from shared.observability import logs
from shared.redis import not_importable

#: Environment variable through which `compose.launcher.flower` passes the configuration.
CONFIG = "IMAGEGEN_FLOWER_CONFIG"


# Celery's own group, `celery -A … flower`, imports every other command of Celery.
@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    from celery import Celery

    config = json.loads(os.environ[CONFIG])
    logs.configure_logging(config["log_format"])
    app = Celery("imagegen")
    app.conf.update(config["celery"])
    context.obj = SimpleNamespace(app=app, quiet=False)


if __name__ == "__main__":
    # Celery's command line and Tornado colour what they print, if they can: 3 MB.
    with not_importable(("pygments", "curses")):
        from flower.command import flower

    main.add_command(flower)
    main()
