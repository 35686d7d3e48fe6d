"""Prompts are read as AUTOMATIC1111's web UI reads them."""

import time

import pytest

from shared.jobs.web_ui.prompt_weights import MAX_WEIGHT, parse_weights, without_weights


def parsed(prompt: str) -> list[list[tuple[str, float]]]:
    return [[(part.text, part.weight) for part in section] for section in parse_weights(prompt)]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        # The examples of the web UI's own parser.
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        # Those of its documentation.
        ("((word))", [("word", 1.1 * 1.1)]),
        ("[word]", [("word", 1 / 1.1)]),
        ("(word:1.5)", [("word", 1.5)]),
        ("(word:0.25)", [("word", 0.25)]),
        (r"\(word\)", [("(word)", 1.0)]),
        ("a:b (c : .5 )", [("a:b ", 1.0), ("c ", 0.5)]),
        ("closed) twice]", [("closed) twice]", 1.0)]),
        ("(no number:1.2.3)", [("no number:1.2.3", 1.1)]),
        ("(less:-1)", [("less", -1.0)]),
        ("", []),
    ],
)
def test_weights_are_those_of_the_web_ui(prompt: str, texts: list[tuple[str, float]]) -> None:
    assert parsed(prompt) == [texts]


def test_break_begins_a_section_and_takes_the_space_around_it() -> None:
    assert parsed("a cat BREAK\n(a dog BREAK sun), BREAKING") == [
        [("a cat", 1.0)],
        [("a dog", 1.1)],
        [("sun", 1.1), (", BREAKING", 1.0)],
    ]


def test_the_text_alone_is_available_to_models_without_weights() -> None:
    assert without_weights(r"a ((red:1.3)) [heart] BREAK on \(blue\)") == "a red heart on (blue)"


def test_weights_stay_within_what_half_precision_holds() -> None:
    assert parsed("((a:999999999999999999):9)") == [[("a", MAX_WEIGHT)]]
    assert parsed("(" * 4000 + "a") == [[("a", MAX_WEIGHT)]]


@pytest.mark.parametrize("hostile", ["(a", "[(", "(a)", ": ", ":1", " ", "\\", "(a:1", "BREAK ", "]("])
def test_hostile_prompts_cost_little(hostile: str) -> None:
    prompt, begin = (hostile * 4000)[:4000], time.process_time()

    parse_weights(prompt)

    assert time.process_time() - begin < 0.2
