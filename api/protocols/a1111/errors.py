"""Errors as the clients of AUTOMATIC1111's web UI read them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError
from api.problems import Problem

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "The code in docs/errors.md"},
        "detail": {"type": "string"},
        "body": {"type": "string"},
        "errors": {"type": "string"},
        "retryable": {"type": "boolean"},
    },
    "required": ["error", "detail", "body", "errors"],
}


#: Our fields by the ones that set them.
_NAMES = {
    "num_images": "batch_size x n_iter",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
}
_NAME = re.compile(rf"\b({'|'.join(_NAMES)})\b")


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    """Some clients show `detail`, others `errors`."""
    detail = _NAME.sub(lambda match: _NAMES[match[1]], problem.detail) if problem.errors else problem.detail
    body = {"error": problem.code, "detail": detail, "body": "", "errors": detail}
    return RenderedError(problem.status, json.dumps({**body, "retryable": problem.retryable}).encode())
