"""On phones and in the dark, and for people who use other means than eyes and a mouse."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.api.clients import KEYS
from tests.api.native.test_purge import generated
from tests.stack import Stack
from tests.studio.conftest import DESKTOP, PHONE, Open, Studio
from tests.studio.test_learning import PARAMETERS, drop, png

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def stack(null: Stack) -> Stack:
    generated(null.api, prompt="first", num_images=2)
    # As of clients that only upscale.
    generated(null.api, prompt=" ")
    generated(null.api, prompt="second")
    return null


def gallery(studio: Studio) -> None:
    expect(studio.tile("second").first).to_be_visible()
    studio.page.get_by_text("More settings").click()


def stage(studio: Studio) -> None:
    studio.generate("second")
    expect(studio.made("second")).to_be_visible()


def viewer(studio: Studio) -> None:
    studio.tile("second").first.click()
    expect(studio.page.get_by_role("complementary").get_by_role("button", name="Everything")).to_be_visible()


def compare(studio: Studio) -> None:
    viewer(studio)
    studio.page.keyboard.press("c")
    expect(studio.page.get_by_role("slider", name=re.compile("first image"))).to_be_visible()


def selection(studio: Studio) -> None:
    studio.tile("second").first.focus()
    studio.page.keyboard.press("x")
    expect(studio.page.get_by_text("1 job selected")).to_be_visible()


def reader(studio: Studio) -> None:
    dialog = drop(studio, png(parameters=PARAMETERS), "foreign.png")
    expect(dialog.get_by_text("Made with AUTOMATIC1111")).to_be_visible()


def mask(studio: Studio) -> None:
    stage(studio)
    studio.prolong_notices()
    studio.stage.get_by_role("button", name="Use as input").click()
    studio.page.get_by_role("button", name="Paint a mask").click()
    expect(studio.page.get_by_role("application")).to_be_visible()


def keys(studio: Studio) -> None:
    studio.page.get_by_role("button", name="Keys").click()
    expect(studio.page.get_by_role("dialog", name="Keys")).to_be_visible()


def service(studio: Studio) -> None:
    studio.page.get_by_role("link", name="Service").click()
    expect(studio.page.get_by_text("Everything works")).to_be_visible()


VIEWS = (gallery, stage, viewer, compare, selection, reader, mask, keys, service)


RULES = "['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa','best-practice']"
#: What other colors change. All rules take four times the CPU time.
COLOR_RULES = "{type: 'rule', values: ['color-contrast','link-in-text-block']}"


def violations(studio: Studio, rules: str = RULES) -> list[str]:
    """What axe-core finds wrong."""
    # Run in the page's own world but not by its policy, which allows no text as a program.
    session = studio.page.context.new_cdp_session(studio.page)
    session.send("Runtime.evaluate", {"expression": f"window.axe || (() => {{ {AXE} }})()"})
    run = f"axe.run(document, {{runOnly: {rules}}})"
    options = {"expression": f"{run}.then((found) => JSON.stringify(found.violations))", "awaitPromise": True}
    found = json.loads(session.send("Runtime.evaluate", {**options, "returnByValue": True})["result"]["value"])
    return [f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


#: What reaches beyond an edge.
CUT_OFF = """() => [...document.querySelectorAll("dialog[open], dialog[open] *, main *, .top *")]
  .filter((one) => one.checkVisibility() && !one.closest(".visually-hidden, .add-input input"))
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 || one.getBoundingClientRect().left < -1)
  .map((one) => one.outerHTML.slice(0, 120))"""


#: Buttons of a dialog with something else on top.
COVERED = """() => [...document.querySelectorAll("dialog[open] button")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }))
  .filter((one) => {
    const { left, top, width, height } = one.getBoundingClientRect();
    const found = document.elementFromPoint(left + width / 2, top + height / 2);
    return found && found.closest("button") !== one;
  })
  .map((one) => one.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("show", VIEWS)
def test_axe_finds_nothing_in_light_and_dark_colors_and_nothing_is_cut_off_or_covered_on_a_phone(
    stack: Stack, open_studio: Open, show: Callable[[Studio], None]
) -> None:
    studio = open_studio(stack.api, color_scheme="light")

    show(studio)

    assert violations(studio) == []
    studio.page.emulate_media(color_scheme="dark")
    assert violations(studio, COLOR_RULES) == []
    session = studio.page.context.new_cdp_session(studio.page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    studio.page.set_viewport_size(PHONE)
    assert studio.page.evaluate("matchMedia('(pointer: coarse)').matches")
    assert studio.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert studio.page.evaluate(CUT_OFF) == []
    assert studio.page.evaluate(COVERED) == []
    session.detach()
    studio.page.set_viewport_size(DESKTOP)


def test_generate_is_in_reach_and_the_image_in_sight_on_a_phone(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, viewport=PHONE, has_touch=True)
    button = studio.page.get_by_role("button", name="Generate")
    expect(button).to_be_in_viewport(ratio=1)

    studio.page.mouse.wheel(0, 900)
    expect(button).to_be_in_viewport(ratio=1)
    studio.generate("an image on a phone")

    expect(studio.made("an image on a phone")).to_be_in_viewport(ratio=0.8)
    expect(button).to_be_in_viewport(ratio=1)
    studio.page.mouse.wheel(0, 250)
    studio.page.wait_for_function("() => scrollY === 250")
    studio.generate("again")
    expect(studio.made("again")).to_be_in_viewport(ratio=0.8)


#: The focused element, or "" if some of it is in sight.
HIDDEN = """() => {
  const focused = document.activeElement;
  const { left, top, width, height } = focused.getBoundingClientRect();
  const points = [0.15, 0.5, 0.85].map((part) => document.elementFromPoint(left + width / 2, top + part * height));
  return points.some((point) => point && !point.closest(".create-bar, .top")) ? "" : focused.outerHTML.slice(0, 80);
}"""


def test_no_bar_hides_what_has_the_focus(stack: Stack, open_studio: Open) -> None:
    """On a small laptop at 200 %."""
    studio = open_studio(stack.api, viewport={"width": 683, "height": 384})
    expect(studio.page.get_by_role("spinbutton", name="Seed")).to_be_visible()
    studio.page.get_by_text("More settings").click()
    studio.prompt.focus()
    hidden = []

    for _ in range(20):
        studio.page.keyboard.press("Tab")
        hidden.append(studio.page.evaluate(HIDDEN))

    assert "Label" in studio.page.evaluate("document.activeElement.closest('form').innerText")
    assert [one for one in hidden if one] == []


def test_the_dark_page_is_dark_and_can_be_made_light(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, color_scheme="dark")
    lightness = "parseInt(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0])"
    assert studio.page.evaluate(lightness) < 50

    studio.page.get_by_role("button", name="Light or dark").click()
    studio.page.reload()

    assert studio.page.evaluate(lightness) > 200


def test_targets_are_large_enough_for_fingers(stack: Stack, open_studio: Open) -> None:
    studio = open_studio(stack.api, viewport=PHONE, has_touch=True)
    stage(studio)

    small = studio.page.evaluate(
        """() => [...document.querySelectorAll("button, select, summary, input")]
          .filter((one) => one.checkVisibility() && !one.closest("label"))
          .map((one) => [one.getBoundingClientRect(), one.outerHTML.slice(0, 120)])
          .filter(([box]) => box.width < 38 || box.height < 44).map(([, text]) => text)"""
    )

    assert small == []


def test_the_login_is_accessible(redis_url: str, tmp_path: Path, open_studio: Open) -> None:
    with Stack(redis_url, tmp_path, SD_BACKENDS="null", SD_API_KEY=KEYS) as stack:
        studio = open_studio(stack.start_api(), is_new=True)
        expect(studio.page.get_by_label("API key")).to_be_visible()

        assert violations(studio) == []
