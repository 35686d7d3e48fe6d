"""Routes that bypass FastAPI's resolution of dependencies give their endpoints the same."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Query, Request, Response
from fastapi.routing import APIRoute

from api.edge.authentication import CallerDep
from api.intake.idempotency import IdempotencyDep
from api.native import jobs
from api.native.direct_route import DirectRoute
from api.services import ServicesDep
from tests.stack import Stack


def is_direct(endpoint: Callable[..., Any]) -> bool:
    return DirectRoute("/x/{job_id}", endpoint, methods=["POST"]).is_direct


@pytest.mark.parametrize("endpoint", [jobs.create_job, jobs.get_job, jobs.pin_job])
def test_the_frequent_routes_are_direct(endpoint: Callable[..., Any]) -> None:
    assert is_direct(endpoint)


def test_an_endpoint_that_needs_more_or_returns_no_response_is_left_to_fastapi() -> None:
    async def with_query(http: Request, purge: Annotated[bool, Query()] = False) -> Response:
        raise NotImplementedError

    async def with_model(http: Request) -> dict[str, str]:
        raise NotImplementedError

    assert not is_direct(with_query)
    assert not is_direct(with_model)


def test_a_direct_route_is_described_like_one_of_fastapi() -> None:
    async def endpoint(
        http: Request, services: ServicesDep, caller: CallerDep, idempotency: IdempotencyDep, job_id: str
    ) -> Response:
        raise NotImplementedError

    direct, plain = DirectRoute("/x/{job_id}", endpoint), APIRoute("/x/{job_id}", endpoint)

    def parameters(route: APIRoute) -> list[str]:
        flat = [*route.dependant.path_params, *route.dependant.header_params]  # codespell:ignore dependant
        return [field.alias for field in flat]

    assert parameters(direct) == parameters(plain) == ["job_id"]


@pytest.mark.parametrize("key", ["with space", "x" * 256, ""])
def test_a_bad_idempotency_key_is_refused_before_anything_is_created(null: Stack, key: str) -> None:
    before = [job["id"] for job in null.api.get("/api/jobs").json()["jobs"]]

    answer = null.api.post("/api/jobs", {"prompt": "x"}, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert "/Idempotency-Key" in answer.text
    assert [job["id"] for job in null.api.get("/api/jobs").json()["jobs"]] == before
