"""The states of a job and its moves, as values."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise, product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shared.errors import InvalidTransition, OutOfMemory
from shared.jobs.job import Job, JobError, Timings
from shared.jobs.requests import GenerationRequest
from shared.jobs.states import TRANSITIONS, State
from shared.jobs.types import Backend

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
ERROR = JobError.from_error(OutOfMemory())
ARROWS = {
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
}


def move(job: Job, state: State) -> Job:
    match state:
        case State.QUEUED:
            return job.requeue()
        case State.RUNNING:
            return job.start("model", "worker", NOW)
        case State.SUCCEEDED:
            return job.succeed((), Timings(), NOW)
        case State.FAILED:
            return job.fail(ERROR, NOW)
        case State.CANCELLED:
            return job.cancel(NOW)


def job_in(state: State) -> Job:
    job = Job.new(GenerationRequest(prompt="x"), Backend.NULL, NOW)
    return job.model_copy(update={"state": state})


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_every_pair_of_states_is_a_legal_move_or_raises(old: State, new: State) -> None:
    if (old, new) in ARROWS:
        assert move(job_in(old), new).state is new
    else:
        with pytest.raises(InvalidTransition):
            move(job_in(old), new)


@pytest.mark.parametrize("state", State)
def test_terminal_states_have_no_transitions(state: State) -> None:
    assert state.is_terminal is (state in ("succeeded", "failed", "cancelled"))
    assert state.is_terminal is (not TRANSITIONS[state])


class AnyLife(RuleBasedStateMachine):
    """Calls in any order either move the job as the table says, or raise and leave it unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Job.new(GenerationRequest(prompt="x"), Backend.NULL, NOW)
        self.lives = [self.job]
        self.now = NOW

    @rule(state=st.sampled_from(State), later=st.integers(0, 100))
    def move(self, state: State, later: int) -> None:
        self.now += timedelta(seconds=later)
        legal = (self.job.state, state) in ARROWS
        try:
            moved = move(self.job, state)
        except InvalidTransition:
            assert not legal
        else:
            assert legal
            assert moved.state is state
            self.job = moved
            self.lives.append(moved)

    @invariant()
    def attempts_only_grow_and_only_by_starting(self) -> None:
        for before, after in pairwise(self.lives):
            assert after.attempt == before.attempt + (after.state is State.RUNNING)

    @invariant()
    def only_what_has_ended_has_an_end(self) -> None:
        assert (self.job.finished_at is not None) is self.job.state.is_terminal
        assert (self.job.timings.total_ms is not None) is self.job.state.is_terminal
        assert (self.job.error is not None) is (self.job.state is State.FAILED)

    @invariant()
    def it_survives_being_stored(self) -> None:
        assert Job.model_validate_json(self.job.model_dump_json(exclude_defaults=True)) == self.job


AnyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestAnyLife = AnyLife.TestCase


def test_ids_sort_by_creation() -> None:
    ids = [Job.new(GenerationRequest(prompt="x"), Backend.NULL, datetime.now(UTC)).id for _ in range(2000)]

    assert ids == sorted(set(ids))


def test_a_random_seed_leaves_room_for_every_image() -> None:
    drawn = {GenerationRequest(prompt="x", num_images=64).with_seed().seed for _ in range(100)}

    assert len(drawn) > 90
    assert all(seed is not None and 0 <= seed <= 2**32 - 64 for seed in drawn)
    assert GenerationRequest(prompt="x", seed=0).with_seed().seed == 0


def test_a_job_is_overdue_only_after_its_deadline() -> None:
    job = Job.new(GenerationRequest(prompt="x", deadline_seconds=10), Backend.NULL, NOW)

    assert not job.is_overdue(NOW + timedelta(seconds=10))
    assert job.is_overdue(NOW + timedelta(seconds=10.001))
    assert not job_in(State.QUEUED).is_overdue(NOW + timedelta(days=365))
