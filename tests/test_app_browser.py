"""The app in headless Chromium: generate, resample, hold, a bad id, stop; by keyboard, and on a narrow screen."""

import shutil

import pytest
import torch
from helpers.docs import make_demo_folder

from modeling_trace import load_model

pytestmark = pytest.mark.slow
WAIT = 180_000  # milliseconds; a page is slow on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose latents are heard, so that resampling changes words."""
    folder = tmp_path_factory.mktemp("app")
    make_demo_folder(folder)
    model, _ = load_model(folder / "model", "cpu")
    with torch.no_grad():
        model.latent_injection.weight.mul_(20)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    pytest.importorskip("gradio", reason="the app's page requires the `demo` extra")
    from modeling_trace.app import build_app, launch_app

    blocks = build_app(str(folder / "model"), device="cpu")
    yield launch_app(blocks)
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no Chromium on the path (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    elsewhere = []
    page.on("request", lambda request: elsewhere.append(request.url) if not is_here(request.url) else None)
    page.goto(address)
    page.wait_for_selector("#generate")
    yield page
    assert "Traceback" not in page.content()
    assert elsewhere == []
    page.close()


def is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def segment(page, text: int, number: int):
    return page.locator(f'#texts [data-key="select-{text}-{number}"]')


def set_most_tokens(page, number: int):
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("number input for Most tokens").fill(str(number))


def generate(page, most_tokens: int = 60):
    set_most_tokens(page, most_tokens)
    page.click("#generate")
    segment(page, 0, 1).wait_for()


def test_generate_resample_hold(page):
    generate(page)
    assert page.locator("#texts li").count() == 4 and "4 texts" in page.inner_text("#status")
    before = segment(page, 0, 1).inner_text()
    segment(page, 0, 1).click()
    page.click("button[data-action=hold]")
    page.wait_for_selector("#texts .held")
    page.click("button[data-action=resample]")
    page.wait_for_selector("#status .error")
    assert "Segment 1 is held. Release it" in page.inner_text("#status")
    assert segment(page, 0, 1).inner_text().startswith(before)
    page.click("button[data-action=hold]")
    page.wait_for_selector("#texts .held", state="detached")
    page.click("button[data-action=resample]")
    page.wait_for_selector("#texts .before")
    assert "segment 1 resampled" in page.inner_text("#status")
    assert segment(page, 0, 1).inner_text() != before


def test_a_bad_id_is_one_line(page):
    page.locator("#model").locator("input, textarea").fill("no/such/model")
    page.get_by_role("button", name="Load").click()
    page.wait_for_selector("#status .error")
    said = page.inner_text("#status")
    assert said.count("\n") == 0 and "there is no folder 'no/such/model'" in said and "or a Hub id" in said
    generate(page)  # the model that was there still is


def test_walk_takes_the_first_two_texts_where_none_are_given(page):
    generate(page)
    first = segment(page, 0, 1).inner_text()
    page.get_by_role("tab", name="Walk").click()
    page.click("#walk")
    page.wait_for_selector("#steps li")
    assert page.locator("#steps li").count() == 5
    start, end = (page.get_by_role("textbox", name=name, exact=True).input_value() for name in ("From", "To"))
    assert start.split()[0] in first and end


def test_stop(page, monkeypatch):
    """Generation that would take minutes ends at once, and what it has written is there."""
    from modeling_trace.app.running import Watch

    slow = Watch.__call__

    def call(self, *args, **kwargs):
        self._stop.wait(0.5)  # as a large model: half a second a token
        return slow(self, *args, **kwargs)

    monkeypatch.setattr(Watch, "__call__", call)
    set_most_tokens(page, 150)
    page.click("#generate")
    page.wait_for_function("document.querySelector('#status').innerText.includes('token 3 of at most')")
    page.click("#stop")
    page.wait_for_function("document.querySelector('#status').innerText.startsWith('Stopped')", timeout=WAIT)
    assert page.locator("#texts li").count() == 4


def test_by_keyboard_on_a_narrow_screen(page):
    page.set_viewport_size({"width": 375, "height": 800})
    page.locator("#generate").focus()
    page.keyboard.press("Enter")
    segment(page, 0, 1).wait_for()
    segment(page, 0, 1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("button[data-action=resample]")
    focused = page.wait_for_function("document.activeElement.dataset.key")
    assert focused.json_value() == "select-0-1"  # the page was drawn anew
    page.locator("#texts input[data-action=temperature]").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#status').innerText.includes('at temperature 0.')")
    page.locator("button[data-action=resample]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#texts .before")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for button in page.locator("#texts .tools button").all():
        assert button.bounding_box()["height"] >= 40
