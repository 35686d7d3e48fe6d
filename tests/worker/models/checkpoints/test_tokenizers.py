"""The bundled tokenizers give the numbers that the published ones give."""

from pathlib import Path

import pytest
import transformers

from worker.models.checkpoints.configurations import write_tokenizer

TEXT = "a Fox!! größe 12"


@pytest.mark.parametrize(
    ("name", "kind", "numbers"),
    [
        ("clip", "CLIPTokenizer", [49406, 320, 3240, 748, 709, 7255, 127, 253, 324, 272, 273, 49407]),
        # Here `!` is what short prompts are filled up with, and so a word of its own.
        ("clip-zero", "CLIPTokenizer", [49406, 320, 3240, 0, 0, 709, 7255, 127, 253, 324, 272, 273, 49407]),
        ("t5", "T5TokenizerFast", [3, 9, 7547, 1603, 3, 19392, 586, 1]),
        ("qwen3", "Qwen2Tokenizer", [64, 13282, 2928, 59409, 23455, 220, 16, 17]),
    ],
)
def test_a_text_becomes_the_published_numbers(name: str, kind: str, numbers: list[int], tmp_path: Path) -> None:
    write_tokenizer(name, tmp_path / name)

    assert getattr(transformers, kind).from_pretrained(tmp_path / name)(TEXT)["input_ids"] == numbers


def test_qwen_writes_a_conversation_as_its_model_expects(tmp_path: Path) -> None:
    write_tokenizer("qwen3", tmp_path / "qwen3")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "qwen3")

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a fox"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )

    assert text == "<|im_start|>user\na fox<|im_end|>\n<|im_start|>assistant\n"
