"""LoRAs are read from prompts as AUTOMATIC1111's web UI reads them."""

import time
from typing import Any

import pytest

from shared.jobs.web_ui.prompt_tags import extract_loras

OFFERED = ("watercolour", "people/anna")


@pytest.mark.parametrize(
    ("prompt", "text", "loras"),
    [
        ("a cat", "a cat", []),
        ("a cat <lora:watercolour:0.8>", "a cat", [("watercolour", 0.8)]),
        ("<lora:watercolour> a cat", "a cat", [("watercolour", 1.0)]),
        ("a <LORA:Anna:0.5:0.25> cat", "a  cat", [("people/anna", 0.5)]),
        ("a cat<lyco:people/anna:0.5:unet=0.7>", "a cat", [("people/anna", 0.7)]),
        ("<lora:anna:1><lora:watercolour:-0.5>", "", [("people/anna", 1.0), ("watercolour", -0.5)]),
        ("<lora:anna:none> x", "x", [("people/anna", 1.0)]),
        ("<lora:anna:nan> x", "x", [("people/anna", 1.0)]),
        ("a < b <lora:> <other:anna:1>", "a < b <lora:> <other:anna:1>", []),
    ],
)
def test_loras_are_taken_out_of_the_prompt(prompt: str, text: str, loras: list[tuple[str, float]]) -> None:
    found = extract_loras(prompt, OFFERED)

    assert found == (text, [{"name": name, "scale": scale} for name, scale in loras], [])


@pytest.mark.parametrize(
    ("prompt", "warning"),
    [
        ("<lora:missing:1>", "the lora 'missing' is left out: this model has none of this name"),
        ("<hypernet:anna:1>", "the hypernet 'anna' is left out: this model has none of this name"),
        ("<lora:anna:99>", "the scale of the LoRA people/anna is limited to 2"),
    ],
)
def test_what_cannot_be_used_is_not_silent(prompt: str, warning: str) -> None:
    assert extract_loras(prompt, OFFERED)[2] == [warning]


def test_more_loras_than_a_request_may_have_are_left_out() -> None:
    offered = tuple(f"l{number}" for number in range(8))

    _, loras, warnings = extract_loras("".join(f"<lora:{name}>" for name in offered), offered)

    assert len(loras) == 5
    assert warnings == ["only the first 5 LoRAs are used"]


@pytest.mark.parametrize("hostile", ["<lora:", "<lora:a:", "<lora:a:1"])
def test_hostile_prompts_cost_little(hostile: str) -> None:
    prompt, begin = (hostile * 4000)[:4000], time.process_time()

    extracted: Any = extract_loras(prompt, OFFERED)

    assert extracted is not None
    assert time.process_time() - begin < 0.2
