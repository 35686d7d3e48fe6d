"""Prompts that change from step to step become the one prompt that comes nearest."""

import time

import pytest

from shared.jobs.web_ui.changing_prompts import unchanging


@pytest.mark.parametrize(
    ("prompt", "nearest"),
    [
        ("a [cat:dog:0.7] on grass", "a cat on grass"),
        ("a [cat:dog:0.3]", "a dog"),
        ("a [cat:dog:12]", "a cat"),
        ("a [cat:dog:4]", "a dog"),
        ("a [cat:dog:1.0]", "a cat"),
        ("a [cat:dog:.2]", "a dog"),
        ("[in fog:0.2] a cat", "in fog a cat"),
        ("[in fog:0.9] a cat", " a cat"),
        ("[in fog::0.9] a cat", "in fog a cat"),
        ("a [cow|horse] in a field", "a cow horse in a field"),
        ("a [ |horse|]", "a horse"),
        ("[a [cat|dog]:a bird:0.9]", "a cat dog"),
        ("[(red:1.2) cat:dog:0.8]", "(red:1.2) cat"),
        ("[(a|b) cat:dog:0.8]", "(a|b) cat"),
    ],
)
def test_the_nearest_prompt_is_used_and_said(prompt: str, nearest: str) -> None:
    found, warnings = unchanging(prompt, 20)

    assert found == nearest
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("prompt", "nearest"),
    [
        ("a cat AND a dog", "a cat, a dog"),
        ("a cat :1.2 AND a dog:0.5 AND a bird:1", "(a cat:1.2), (a dog:0.5), a bird"),
        ("a cat AND ", "a cat"),
    ],
)
def test_combined_prompts_become_one(prompt: str, nearest: str) -> None:
    assert unchanging(prompt, None) == (nearest, ("AND is read as a comma: the prompts become one",))


OTHERS = ("", "a (cat:1.2) [dog] ((x))", "at 10:30", "[time 10:30 sharp]", "SAND and BRAND", "a [cat:dog:0.5", "x]")


@pytest.mark.parametrize("prompt", [*OTHERS, r"\[cat:dog:0.5\]"])
def test_other_prompts_stay(prompt: str) -> None:
    assert unchanging(prompt, 20) == (prompt, ())


@pytest.mark.parametrize("hostile", ["[", "[a:", "[a|", "AND ", "]", ":1", "[a:b:0.5]", "[" * 2000 + "x" + "]" * 2000])
def test_hostile_prompts_cost_little(hostile: str) -> None:
    begin = time.process_time()

    for length in (4000, 4_000_000):
        unchanging((hostile * length)[:length] if len(hostile) < 100 else hostile, 20)

    assert time.process_time() - begin < 2
