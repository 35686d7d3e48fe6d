"""What the store knows of models, and for how long."""

import pytest

from shared.jobs.types import Backend
from shared.models.catalogue import ModelEntry, ModelState
from shared.redis.keys import Keys
from shared.workers.models import (
    COMMAND_LIFETIME_MS,
    LOST_LOAD_MS,
    MAX_COMMANDS,
    MAX_LOST_LOADS,
    ModelAction,
    ModelCommand,
    ModelRecords,
)
from tests.shared.conftest import Records


@pytest.fixture
def models(records: Records) -> ModelRecords:
    return ModelRecords(records.prefix)


def test_a_model_that_ends_its_process_is_loaded_again_after_a_time(records: Records, models: ModelRecords) -> None:
    begin = models.begin_load(Backend.NULL, "a", "1", "w")

    assert [records.run(begin) for _ in range(MAX_LOST_LOADS + 1)] == [True] * MAX_LOST_LOADS + [False]

    lifetime = records.store.client.pttl(Keys(records.prefix).unfinished_loads(Backend.NULL, "a", "1"))
    assert LOST_LOAD_MS - 5000 < lifetime <= LOST_LOAD_MS


def test_only_the_newest_commands_wait_for_a_worker_and_not_for_ever(records: Records, models: ModelRecords) -> None:
    for number in range(MAX_COMMANDS + 1):
        records.run(models.send_command(["w"], ModelCommand(action=ModelAction.LOAD, model=str(number))))
    lifetime = records.store.client.pttl(Keys(records.prefix).commands("w"))

    commands, _ = records.run(models.take_commands(Backend.NULL, "w"))

    assert [command.model for command in commands] == [str(number + 1) for number in range(MAX_COMMANDS)]
    assert COMMAND_LIFETIME_MS - 5000 < lifetime <= COMMAND_LIFETIME_MS
    assert records.run(models.take_commands(Backend.NULL, "w"))[0] == ()


@pytest.mark.parametrize(
    ("source", "state", "is_found"),
    [
        ("there", ModelState.AVAILABLE, True),
        ("there", ModelState.MISSING, False),
        ("here", ModelState.AVAILABLE, False),
    ],
)
def test_a_model_is_elsewhere_if_another_machine_can_use_it(
    records: Records, models: ModelRecords, source: str, state: ModelState, *, is_found: bool
) -> None:
    entry = ModelEntry(name="a", backend=Backend.NULL, state=state)
    records.run(models.publish(Backend.NULL, source, [entry], is_complete=True))

    assert records.run(models.is_elsewhere(Backend.NULL, "here", "a")) == is_found
