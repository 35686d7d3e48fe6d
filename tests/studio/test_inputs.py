"""Images given to the form: pasted, dropped and chosen."""

import re

import pytest
from playwright.sync_api import Route, expect

from tests.api.images import encoded, scene
from tests.stack import Stack
from tests.studio.conftest import Open, Studio


@pytest.fixture
def studio(null: Stack, open_studio: Open) -> Studio:
    return open_studio(null.api)


PASTE = """(texts) => {
  const data = new DataTransfer();
  for (const [type, text] of Object.entries(texts)) data.setData(type, text);
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
  return new Promise((resolve) => canvas.toBlob((blob) => {
    data.items.add(new File([blob], texts["text/plain"] ?? "copied.png", { type: "image/png" }));
    const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
    resolve(document.getElementById("prompt").dispatchEvent(event));
  }));
}"""


def test_text_with_an_image_of_it_is_pasted_as_text_and_images_are_inputs(studio: Studio) -> None:
    """Office programs copy both."""
    expect(studio.page.get_by_role("button", name="Choose images")).to_be_attached()

    assert studio.page.evaluate(PASTE, {"text/plain": "a cell", "text/html": "<td>a cell</td>"})
    # As of a file manager, and of a browser.
    assert not studio.page.evaluate(PASTE, {"text/plain": "file.png"})
    assert not studio.page.evaluate(PASTE, {"text/html": "<img>"})

    for number, name in ((1, "file.png"), (2, "copied.png")):
        expect(studio.page.get_by_role("img", name=f"Input {number}: {name}, 64 by 48 pixels")).to_be_visible()


DROP = """(area, [text, type]) => {
  const data = new DataTransfer();
  if (type) data.items.add(new File([text], "dropped", { type }));
  else data.setData("text/plain", text);
  const isLeft = area.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  return isLeft;
}"""


def test_text_dropped_on_the_prompt_is_left_to_the_browser(studio: Studio) -> None:
    assert studio.prompt.evaluate(DROP, ["a cat", ""])


def test_a_dropped_file_that_is_no_image_is_refused_in_words(studio: Studio) -> None:
    assert not studio.prompt.evaluate(DROP, ["a cat", "text/plain"])

    expect(studio.page.get_by_role("status")).to_have_text("Only images can be dropped here.")
    studio.page.get_by_role("group", name=re.compile("Input image")).evaluate(DROP, ["GIF89a", "image/gif"])
    expect(studio.page.get_by_role("status")).to_have_text("dropped is not a PNG, JPEG or WebP image.")


def test_files_dropped_on_the_inputs_become_inputs(studio: Studio) -> None:
    area = studio.page.get_by_role("group", name=re.compile("Input image"))
    expect(area).to_be_visible()
    area.evaluate(
        """(area, bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
          area.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        list(encoded(scene(64, 48))),
    )

    expect(studio.page.get_by_role("img", name="Input 1: dropped.png, 64 by 48 pixels")).to_be_visible()
    expect(studio.page.get_by_role("dialog")).to_have_count(0)


def test_an_image_is_taken_before_the_controls_are_known(null: Stack, open_studio: Open) -> None:
    studio = open_studio(null.api, "/health/live")
    paste = """(bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "early.png", { type: "image/png" }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    }"""

    def paste_before_the_answer(route: Route) -> None:
        studio.page.evaluate(paste, list(encoded(scene(64, 48))))
        route.continue_()

    studio.page.route("**/api/models/null", paste_before_the_answer, times=1)

    studio.open()

    expect(studio.page.get_by_role("img", name="Input 1: early.png, 64 by 48 pixels")).to_be_visible()
