"""What is wrong with a field, in words that no Python programmer is needed for."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from shared.errors import FieldError
from shared.jobs.requests import GenerationRequest

#: What other tools call our fields.
OTHER_NAMES = {
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
}
_EXACT = {
    "missing": "is missing",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number, and not infinite",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_pattern_mismatch": "has a form that is not accepted",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "recursion_loop": "is nested too deep",
}
_WITH_BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "may be at most {le}",
    "less_than": "must be less than {lt}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "may have at most {max_length} entries",
}
#: What a sentence goes on with that has its subject before it.
_PREDICATE = re.compile(r"(must|may|is|was|has|needs|makes|does|takes)\b")


def describe_error(problem: Mapping[str, Any]) -> str:
    """Of what pydantic says: `must be a whole number`. Never quotes what was sent."""
    kind, context = problem["type"], problem.get("ctx", {})
    match kind:
        case "json_invalid":
            return "the body is not valid JSON"
        case "extra_forbidden":
            return unknown_field(str(problem["loc"][-1]))
        case "enum" | "literal_error":
            return f"must be {str(context['expected']).replace(chr(39), '')}"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
    if len(problem["loc"]) > 2 and isinstance(problem["loc"][2], str) and problem["loc"][1] == "metadata":
        return "has a value that JSON does not have"
    if context.get("min_length") == 1:
        return "must not be empty"
    if context.get("field_type") == "Value":
        # Pydantic's word for a text that a validator of ours has seen.
        kind = f"string_{kind}"
    if len(problem["loc"]) == 1 and kind in _EXACT and kind != "missing":
        return "the body must be a JSON object"
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    return _EXACT.get(kind) or _WITH_BOUNDS.get(kind, "is not valid").format(**bounds)


def unknown_field(name: str) -> str:
    """With what may have been meant."""
    if not re.fullmatch(r"\w{1,32}", name, re.ASCII):
        return "there is a field that this request does not have"
    fields = list(GenerationRequest.model_fields)
    near = OTHER_NAMES.get(name.lower()) or next(iter(get_close_matches(name.lower(), fields, 1)), None)
    return "is not a field of this request" + (f"; perhaps you mean {near}" if near else "")


def summarize(detail: str, errors: Sequence[FieldError]) -> str:
    """The detail of a problem about fields: what it says itself, and what is wrong with the first of them."""
    if not errors:
        return detail
    name, wrong = _name(errors[0].pointer), errors[0].detail.rstrip(".")
    if not _PREDICATE.match(wrong):
        told = f"{name}: {wrong}" if name else _begun(wrong)
    else:
        told = f"{name or 'A field'} {wrong}"
    return f"{detail.rstrip('.')}: {told}." if detail else f"{told}."


def _begun(text: str) -> str:
    """With a capital, where that is no field's name."""
    return text if text.split()[0] in GenerationRequest.model_fields else text[:1].upper() + text[1:]


def _name(pointer: str) -> str:
    """`loras[0].name` of `/loras/0/name`."""
    first, *rest = pointer.removeprefix("/").split("/")
    return first + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
