"""Reads what authors write into the header of a file: ModelSpec, and what training tools store."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_TEXT, MAX_TRIGGER_WORDS = 200, 32


@dataclass(frozen=True)
class ModelSpec:
    title: str | None = None
    licence: str | None = None
    trigger_words: tuple[str, ...] = ()
    prediction_type: str | None = None
    """epsilon or v_prediction."""


def read_modelspec(metadata: Mapping[str, str]) -> ModelSpec:
    def text(*keys: str) -> str | None:
        found = (_line(metadata.get(key, "")) for key in keys)
        return next(filter(None, found), None)

    words = (_line(word) for word in metadata.get("modelspec.trigger_phrase", "").split(","))
    prediction = text("modelspec.prediction_type", "modelspec.predict_type") or ""
    return ModelSpec(
        title=text("modelspec.title", "ss_output_name"),
        licence=text("modelspec.license", "modelspec.licence"),
        trigger_words=tuple(dict.fromkeys(filter(None, words)))[:MAX_TRIGGER_WORDS],
        prediction_type={"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}.get(prediction),
    )


def _line(text: str) -> str:
    """One line without control characters."""
    return re.sub(r"[\x00-\x1f\x7f\s]+", " ", text).strip()[:MAX_TEXT]
