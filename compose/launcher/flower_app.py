"""Flower with a Celery app that knows only the broker: without the worker's code and settings it takes 25 MB less."""

import json
import os
from types import SimpleNamespace

import click
from celery import Celery

import shared.redis  # noqa: F401 - before Celery imports redis-py
from shared.observability import logs

#: Environment variable through which `compose.launcher.flower` passes the configuration.
CONFIG = "IMAGEGEN_FLOWER_CONFIG"


# Celery's own group, `celery -A … flower`, imports every other command of Celery.
@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    config = json.loads(os.environ[CONFIG])
    logs.configure_logging(config["log_format"])
    app = Celery("imagegen")
    app.conf.update(config["celery"])
    context.obj = SimpleNamespace(app=app, quiet=False)


if __name__ == "__main__":
    from flower.command import flower

    main.add_command(flower)
    main()
