"""Explains what is wrong with a field in words that need no knowledge of Python."""

import re
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from shared.errors import FieldError, InvalidRequest
from shared.jobs.requests import GenerationRequest, Lora

M = TypeVar("M", bound=BaseModel)

#: Names that other tools use for our fields.
ALIASES = {
    "steps": "num_inference_steps",
    "inference_steps": "num_inference_steps",
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "n": "num_images",
    "batch_size": "num_images",
    "n_iter": "num_images",
    "num_images_per_prompt": "num_images",
    "size": "width and height",
    "negative": "negative_prompt",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "denoising_strength": "strength",
    "init_image": "image",
    "init_images": "image",
    "images": "image",
    "input_image": "image",
    "file": "image",
    "data": "image",
    "mask_image": "mask",
    "callback_url": "webhook_url",
    "weight": "scale",
    "strength": "scale",
    "model": "name",
}
_MESSAGES = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_pattern_mismatch": "has an invalid format",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "recursion_loop": "is nested too deeply",
}
_BOUND_MESSAGES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "may be at most {le}",
    "less_than": "must be less than {lt}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "may have at most {max_length} entries",
}
#: A message that begins so is a predicate, and the name of the field is its subject.
_PREDICATE = re.compile(r"(must|may|is|was|has|needs|requires|contains|names|makes|does|takes)\b")


def invalid_field(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError(pointer, detail)])


def validate(model: type[M], fields: Any) -> M:
    """Raises RequestValidationError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise request_error(error) from None


def request_error(error: ValidationError) -> RequestValidationError:
    """The same as FastAPI raises it for a body, without what was sent."""
    problems = error.errors(include_url=False, include_input=False)
    return RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in problems])


def describe_error(problem: Mapping[str, Any]) -> str:
    """Turn an error of pydantic into a message such as `must be a whole number`, which never quotes the input."""
    kind, context = problem["type"], problem.get("ctx", {})
    match kind:
        case "json_invalid":
            return ": ".join(filter(None, ("the body is not valid JSON", problem["msg"])))
        case "extra_forbidden":
            model = Lora if "loras" in problem["loc"] else GenerationRequest
            return unknown_field(str(problem["loc"][-1]), model.model_fields.keys())
        case "enum" | "literal_error":
            return f"must be {str(context['expected']).replace(chr(39), '')}"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
    if len(problem["loc"]) > 2 and isinstance(problem["loc"][2], str) and problem["loc"][1] == "metadata":
        return "has a value that JSON cannot represent"
    if context.get("min_length") == 1:
        return "must not be empty"
    if context.get("field_type") == "Value":
        # Pydantic says so about strings that pass through a validator of ours.
        kind = f"string_{kind}"
    if len(problem["loc"]) == 1 and kind in _MESSAGES and kind != "missing":
        return "the body must be a JSON object"
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    return _MESSAGES.get(kind) or _BOUND_MESSAGES.get(kind, "is not valid").format(**bounds)


def unknown_field(name: str, fields: Set[str] = GenerationRequest.model_fields.keys()) -> str:
    """A message that suggests the field that was probably meant."""
    if not re.fullmatch(r"\w{1,32}", name, re.ASCII):
        return "the request has an unknown field"
    near = near_field(name, fields)
    return "is not a known field" + (f"; perhaps you mean {near}" if near else "")


def near_field(name: str, fields: Set[str] = GenerationRequest.model_fields.keys()) -> str | None:
    """What the caller of an unknown field probably means."""
    alias = ALIASES.get(name.lower())
    if alias is not None and fields >= {*alias.split(" and ")}:
        return alias
    return next(iter(get_close_matches(name.lower(), fields, 1)), None)


def summarize(detail: str, errors: Sequence[FieldError]) -> str:
    """The detail of a problem, followed by what is wrong with its first field."""
    if not errors:
        return detail
    name, message = _field_name(errors[0].pointer), errors[0].detail.rstrip(".")
    if _PREDICATE.match(message):
        first = f"{name or 'A field'} {message}"
    else:
        first = f"{name}: {message}" if name else _capitalize(message)
    return f"{detail.rstrip('.')}: {first}." if detail else f"{first}."


def _capitalize(text: str) -> str:
    """Capitalize a sentence that does not begin with the name of a field."""
    return text if text.split()[0] in GenerationRequest.model_fields else text[:1].upper() + text[1:]


def _field_name(pointer: str) -> str:
    """Turn `/loras/0/name` into `loras[0].name`."""
    first, *rest = pointer.removeprefix("/").split("/")
    return first + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
