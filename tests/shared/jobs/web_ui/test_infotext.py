"""The text that AUTOMATIC1111's web UI writes into images is written and read as there."""

import time

import pytest

from shared.jobs.web_ui.infotext import parse_infotext, write_infotext

#: An image of the web UI, as its wiki shows them.
FOREIGN = """masterpiece, (red:1.2) heart
second line
Negative prompt: blurry, text
more of it
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 9654, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5-pruned-emaonly, Lora hashes: "watercolour: 1a2b, ink: 3c4d", Version: v1.10.1"""


def test_the_text_of_a_foreign_image_is_parsed() -> None:
    assert parse_infotext(FOREIGN) == {
        "Prompt": "masterpiece, (red:1.2) heart\nsecond line",
        "Negative prompt": "blurry, text\nmore of it",
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": "9654",
        "Size-1": "512",
        "Size-2": "768",
        "Model hash": "6ce0161689",
        "Model": "v1-5-pruned-emaonly",
        "Lora hashes": "watercolour: 1a2b, ink: 3c4d",
        "Version": "v1.10.1",
    }


def test_what_is_written_is_read_again() -> None:
    settings = {"Steps": 20, "Sampler": "Euler a", "Missing": None, "Model": 'a, "b": c\nd', "Size": "128x64"}

    parsed = parse_infotext(write_infotext("a: b, c: d\ne", "f", settings))

    assert parsed == {
        "Prompt": "a: b, c: d\ne",
        "Negative prompt": "f",
        "Steps": "20",
        "Sampler": "Euler a",
        "Model": 'a, "b": c\nd',
        "Size-1": "128",
        "Size-2": "64",
    }


def test_a_text_without_settings_is_a_prompt() -> None:
    assert parse_infotext("a heart: red, blue: 2") == {"Prompt": "a heart: red, blue: 2", "Negative prompt": ""}
    assert parse_infotext("") == {"Prompt": "", "Negative prompt": ""}


@pytest.mark.parametrize("hostile", ["a:", '"', 'a: "', "\\", " ", "a" * 63 + " ", ":", ",", "Negative prompt:\n"])
def test_hostile_texts_cost_little(hostile: str) -> None:
    text, begin = hostile * (1_000_000 // len(hostile)), time.process_time()

    parse_infotext(text)
    # White space at the ends is stripped.
    parse_infotext(f"a{text}a")

    assert time.process_time() - begin < 1
