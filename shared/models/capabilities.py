"""What a backend with its model can do: the one source for checks, defaults and GET /api/backends."""

from math import sqrt
from typing import Any

from shared.errors import FieldError, InvalidRequest
from shared.jobs.requests import MAX_LORAS, GenerationRequest, Lora
from shared.jobs.types import FrozenModel

#: Width and height in pixels.
Size = tuple[int, int]


class RequestLimits(FrozenModel):
    """What the operator allows, whatever the model could do."""

    max_pixels: int
    max_images: int
    max_pixel_steps: int
    """Most width x height x steps x images of a job."""

    def check(self, request: GenerationRequest) -> None:
        """Raises InvalidRequest. For a backend whose model is not known yet: sides left out cannot be judged."""
        if errors := self.errors(request, request.width or 0, request.height or 0, request.num_inference_steps):
            raise InvalidRequest("This service does not make such images.", errors)

    def errors(self, request: GenerationRequest, width: int, height: int, steps: int | None) -> list[FieldError]:
        """`steps` is None where the model has no such thing, or it is not known."""
        errors = []
        if width * height > self.max_pixels:
            errors.append(FieldError("/width", f"width x height may be at most {self.max_pixels} pixels"))
        if request.num_images > self.max_images:
            errors.append(FieldError("/num_images", f"at most {self.max_images} images per job"))
        if width * height * (steps or 1) * request.num_images > self.max_pixel_steps:
            pointer = "/num_inference_steps" if steps else "/width"
            product = "width x height x num_inference_steps x num_images"
            errors.append(FieldError(pointer, f"{product} may be at most {self.max_pixel_steps}"))
        return errors


class Capabilities(FrozenModel):
    """Told by a worker once its model is loaded; kept after it is gone, so that jobs can wait for its return."""

    model: str
    width: int
    """Native size in pixels."""
    height: int
    multiple_of: int
    min_side: int
    max_side: int
    max_pixels: int | None = None
    max_ratio: float | None = None
    """How much longer than the other one side may be."""
    only_ratio: bool = False
    """Whether of width and height only their ratio counts, and the model chooses the size."""
    exact_size: bool = True
    """Whether an image of another size than was asked for is a mistake."""
    num_inference_steps: int | None
    """None where the model has no such thing."""
    min_steps: int = 1
    max_steps: int = 150
    guidance_scale: float | None
    """None where the model has no such thing."""
    min_guidance: float = 0
    max_guidance: float = 50
    schedulers: tuple[str, ...] = ()
    max_input_images: int = 0
    """Images that a request may bring in `image`."""
    inpainting: bool = False
    """Whether it takes a `mask`."""
    strength: float | None = None
    """None where the model has no such thing."""
    loras: tuple[str, ...] = ()
    """Names that a request may have in `loras`."""
    safety: str | None = None
    """What is done about unsafe images: `checked`, `off`, or `exempt` and why; None where a provider sees to it."""
    max_added: int | None = None
    """Where width and height are those of the input with something added on every side: how much that may be."""
    requires: tuple[str, ...] = ()
    """Request fields without which this model makes nothing."""
    ignored: tuple[str, ...] = ()
    """Request fields that this backend cannot honour."""
    choices: tuple["Capabilities", ...] = ()
    """Every model that a request may name in `bfl_model`, this one among them."""

    def for_requested_model(self, request: GenerationRequest) -> "Capabilities":
        """Those of the model that the request names. Raises InvalidRequest where there is no such model."""
        if not self.choices or request.bfl_model in (None, self.model):
            return self
        for choice in self.choices:
            if choice.model == request.bfl_model:
                return choice
        names = ", ".join(choice.model for choice in self.choices)
        raise InvalidRequest("There is no such model.", [FieldError("/bfl_model", f"must be one of {names}")])

    def check(
        self, request: GenerationRequest, limits: RequestLimits | None = None, input_size: Size | None = None
    ) -> None:
        """Raises InvalidRequest naming every field that this backend would not take.

        `input_size` is that of the first image in `image`, as it is shown.
        """
        errors = self.for_requested_model(request)._errors(request, limits, input_size)
        if errors:
            raise InvalidRequest(f"The {self.for_requested_model(request).model} model cannot make this image.", errors)

    def resolve(
        self, request: GenerationRequest, input_size: Size | None = None, max_pixels: int | None = None
    ) -> tuple[GenerationRequest, tuple[str, ...]]:
        """The request with the model's defaults filled in, and a warning for each field that is not as asked.

        With an image to begin with, sides that were left out follow from its own: of the same ratio, in multiples,
        and no larger than the model and `max_pixels` allow.
        """
        own = self.for_requested_model(request)
        width, height = own._size(request, input_size, max_pixels)
        defaults = {
            "num_inference_steps": own.num_inference_steps,
            "guidance_scale": own.guidance_scale,
            # What is under the mask is there to be replaced.
            "strength": (own.strength and 1.0 if request.mask else own.strength) if request.image else None,
            "bfl_model": own.model if self.choices else None,
        }
        given = {name for name in own.ignored if getattr(request, name) is not None}
        missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
        warnings = [f"{name} is ignored: {own.model} cannot honour it" for name in sorted(given)]
        if own.only_ratio and (request.width or request.height):
            warnings.append(f"width and height only set the aspect ratio: {own.model} chooses the size")
        return request.model_copy(update={"width": width, "height": height, **missing}), tuple(warnings)

    def request_schema(self, limits: RequestLimits) -> dict[str, Any]:
        """JSON Schema of the requests that `check` accepts, with this backend's defaults and limits.

        What JSON Schema cannot say is in `x-max-pixels`, `x-max-ratio` and `x-max-pixel-steps`. Fields marked
        `x-ignored` are taken, but change nothing. Where a request may choose the model, its own limits are in `allOf`.
        """
        schema = GenerationRequest.model_json_schema()
        fields: dict[str, dict[str, Any]] = schema["properties"]
        for name, known in self._known_fields(limits).items():
            sentence = fields[name].get("description")
            fields[name] = {**known, "description": sentence} if sentence else known
        for name in () if self.choices else self.ignored:
            fields[name]["x-ignored"] = True
        schema |= {"title": f"{self.model} request", "x-max-pixels": limits.max_pixels}
        schema["x-max-pixel-steps"] = limits.max_pixel_steps
        if not self.choices:
            schema["required"] += self.requires
        else:
            schema["allOf"] = [self._condition(choice, limits) for choice in self.choices]
        return schema

    def _condition(self, choice: "Capabilities", limits: RequestLimits) -> dict[str, Any]:
        """What holds for requests that choose this model; those that name none choose the default."""
        if choice.model == self.model:
            condition: dict[str, Any] = {"properties": {"bfl_model": {"enum": [choice.model, None]}}}
        else:
            condition = {"properties": {"bfl_model": {"const": choice.model}}, "required": ["bfl_model"]}
        fields = choice._known_fields(limits)
        for name in choice.ignored:
            fields[name] = {**fields.get(name, {}), "x-ignored": True}
        pixels = min(limits.max_pixels, choice.max_pixels or limits.max_pixels)
        told = {"properties": fields, "x-max-pixels": pixels, "x-max-ratio": choice.max_ratio}
        told |= {"required": list(choice.requires)} if choice.requires else {}
        return {"title": choice.model, "if": condition, "then": told}

    def _known_fields(self, limits: RequestLimits) -> dict[str, dict[str, Any]]:
        images = {"type": "integer", "minimum": 1, "maximum": limits.max_images, "default": 1}
        if self.choices:
            names = [choice.model for choice in self.choices]
            return {"num_images": images, "bfl_model": {"enum": [*names, None], "default": self.model}}
        side = {
            "type": ["integer", "null"],
            "minimum": self.min_side,
            "maximum": self.max_side,
            "multipleOf": self.multiple_of,
        }
        fields: dict[str, dict[str, Any]] = {
            "width": {**side, "default": self.width},
            "height": {**side, "default": self.height},
            "num_images": images,
            **self._image_fields(),
        }
        if self.num_inference_steps is not None:
            steps = {"minimum": self.min_steps, "maximum": self.max_steps, "default": self.num_inference_steps}
            fields["num_inference_steps"] = {"type": ["integer", "null"], **steps}
        if self.guidance_scale is not None:
            guidance = {"minimum": self.min_guidance, "maximum": self.max_guidance, "default": self.guidance_scale}
            fields["guidance_scale"] = {"type": ["number", "null"], **guidance}
        if "scheduler" not in self.ignored:
            fields["scheduler"] = {"enum": [*self.schedulers, None], "default": None}
        if "loras" not in self.ignored:
            fields["loras"] = self._lora_field()
        return fields

    def _image_fields(self) -> dict[str, dict[str, Any]]:
        source, none = {"type": "string"}, {"type": "null"}
        if not self.max_input_images:
            return {"image": none, "mask": none, "strength": none}
        several = {"type": "array", "items": source, "maxItems": self.max_input_images}
        fields: dict[str, dict[str, Any]] = {
            "image": {"anyOf": [source, several, none]},
            "mask": {"anyOf": [source, none]} if self.inpainting else none,
        }
        if self.strength is not None:
            bounds = {"exclusiveMinimum": 0, "maximum": 1, "default": self.strength}
            fields["strength"] = {"type": ["number", "null"], **bounds}
        return fields

    def _lora_field(self) -> dict[str, Any]:
        if not self.loras:
            return {"type": ["array", "null"], "maxItems": 0, "default": None}
        scale = Lora.model_json_schema()["properties"]["scale"]
        names = {"type": "string", "enum": list(self.loras)}
        lora = {"type": "object", "properties": {"name": names, "scale": scale}, "required": ["name"]}
        item = {**lora, "additionalProperties": False}
        return {"type": ["array", "null"], "maxItems": MAX_LORAS, "default": None, "items": item}

    def _errors(
        self, request: GenerationRequest, limits: RequestLimits | None, input_size: Size | None
    ) -> list[FieldError]:
        width, height = self._size(request, input_size, limits.max_pixels if limits else None)
        errors = [*self._side_errors("width", request.width), *self._side_errors("height", request.height)]
        errors += self._shape_errors(width, height) + self._added_errors(request, input_size)
        steps = None if self.num_inference_steps is None else request.num_inference_steps or self.num_inference_steps
        errors += limits.errors(request, width, height, steps) if limits else []
        if self.num_inference_steps is not None:
            errors += _range_errors("num_inference_steps", steps, self.min_steps, self.max_steps)
        if self.guidance_scale is not None:
            guidance = request.guidance_scale
            errors += _range_errors("guidance_scale", guidance, self.min_guidance, self.max_guidance)
        errors += [*self._scheduler_errors(request.scheduler), *self._lora_errors(request)]
        return errors + self._image_errors(request)

    def _added_errors(self, request: GenerationRequest, input_size: Size | None) -> list[FieldError]:
        if self.max_added is None or input_size is None or not (request.width and request.height):
            return []
        if input_size == (request.width, request.height):
            return [FieldError("/width", "nothing would be added: the image is of this size already")]
        sides = zip(("width", "height"), (request.width, request.height), input_size, strict=True)
        return [
            error
            for name, side, given in sides
            for error in _range_errors(name, side, given, given + 2 * self.max_added)
        ]

    def _image_errors(self, request: GenerationRequest) -> list[FieldError]:
        errors, most = [], self.max_input_images
        if len(request.image) > most:
            errors.append(FieldError("/image", f"may be at most {most} images" if most else "is not taken"))
        if request.mask is not None and not self.inpainting:
            errors.append(FieldError("/mask", "is not taken"))
        missing = (name for name in self.requires if not getattr(request, name))
        return errors + [FieldError(f"/{name}", "is needed by this model") for name in missing]

    def _size(self, request: GenerationRequest, input_size: Size | None, max_pixels: int | None) -> Size:
        """The size of the image: what is asked for, else that of the input as far as it can be, else the native."""
        width = None if "width" in self.ignored else request.width
        height = None if "height" in self.ignored else request.height
        if input_size is None or (width and height):
            return width or self.width, height or self.height
        if width:
            return width, self._side(input_size[1] * width / input_size[0])
        if height:
            return self._side(input_size[0] * height / input_size[1]), height
        return self._fitted(input_size, min(max_pixels or self.max_side**2, self.max_pixels or self.max_side**2))

    def _fitted(self, size: Size, max_pixels: int) -> Size:
        shorter, longer = sorted(size)
        longer = min(longer, int(shorter * (self.max_ratio or longer)))
        largest = min(self.max_side / longer, sqrt(max_pixels / (shorter * longer)))
        scale = min(max(1.0, self.min_side / shorter), largest)
        low = self._side(shorter * scale)
        # The shorter one may be longer now than its share.
        high = self._side(min(longer * scale, low * (self.max_ratio or longer), max_pixels / low))
        return (high, low) if size[0] >= size[1] else (low, high)

    def _side(self, length: float) -> int:
        """The side that comes next below, for the product of two such sides to stay below that of the lengths."""
        # A hair above, for what floats make of whole numbers.
        whole = int(length + 1e-6) // self.multiple_of * self.multiple_of
        return min(max(whole, self.min_side), self.max_side)

    def _shape_errors(self, width: int, height: int) -> list[FieldError]:
        errors = []
        if self.max_pixels is not None and width * height > self.max_pixels:
            errors.append(FieldError("/width", f"width x height may be at most {self.max_pixels} pixels"))
        if self.max_ratio is not None and max(width, height) > self.max_ratio * min(width, height) + 1e-6:
            errors.append(FieldError("/width", f"one side may be at most {self.max_ratio:.4g} times the other"))
        return errors

    def _lora_errors(self, request: GenerationRequest) -> list[FieldError]:
        if "loras" in self.ignored:
            return []
        known = (
            f"must be one of {', '.join(self.loras)}"
            if self.loras
            else "is not known: there are no LoRAs in SD_LORA_DIR"
        )
        return [
            FieldError(f"/loras/{index}/name", known)
            for index, lora in enumerate(request.loras or ())
            if lora.name not in self.loras
        ]

    def _scheduler_errors(self, scheduler: str | None) -> list[FieldError]:
        if scheduler is None or "scheduler" in self.ignored or scheduler in self.schedulers:
            return []
        return [FieldError("/scheduler", f"must be one of {', '.join(self.schedulers)}")]

    def _side_errors(self, name: str, side: int | None) -> list[FieldError]:
        if (
            side is None
            or name in self.ignored
            or (self.min_side <= side <= self.max_side and side % self.multiple_of == 0)
        ):
            return []
        kind = f"a multiple of {self.multiple_of} " if self.multiple_of > 1 else ""
        wanted = f"must be {kind}between {self.min_side} and {self.max_side}"
        return [FieldError(f"/{name}", wanted)]


def _range_errors(name: str, value: float | None, low: float, high: float) -> list[FieldError]:
    if value is None or low <= value <= high:
        return []
    return [FieldError(f"/{name}", f"must be between {low:g} and {high:g}")]
