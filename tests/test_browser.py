"""The canvas and the explorers as a reader meets them: JupyterLab and Voila in a headless Chromium.

Real pixels are compared, never time. Screenshots lie in pytest's temporary folder, or in $HOTSEG_SCREENSHOTS.
Without a browser the tests are skipped, except where CI is set: there they fail.
"""
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from nbconvert import HTMLExporter

from hotseg.browser import Screen, browsing, chromium, lab, playwright, voila, write_notebook
from hotseg.core import HotsegError


def what_is_missing():
    try: return (chromium(), playwright()) and None
    except HotsegError as e: return str(e)


MISSING = what_is_missing()
pytestmark = pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=str(MISSING))

DEMO = ["""
import time
import numpy as np
from hotseg.core import HotsegError
from hotseg.explore.canvas import Picture
from hotseg.explore.views import Explorer, chooser, slider
from hotseg.labels import CITYSCAPES

rows, columns = np.indices((128, 256))
image = np.stack([rows * 2, columns, 255 - columns], -1).astype(np.uint8)

class Demo(Explorer):
    "Squares that move; a compute that takes as long, or fails, as one likes"
    def __init__(self):
        self.move = slider("move", 0, 0, 9)
        self.mood = chooser("mood", ["quick", "slow", "broken"])
        super().__init__(CITYSCAPES, 2, 2, [self.move, self.mood])
        self.canvas.on_click(lambda panel, row, column: self.say(f"clicked panel {panel} row {row} column {column}"))
        self.canvas.on_brush(lambda panel, *box: self.say(f"brushed panel {panel} {box}"))
        self.refresh()

    def compute(self):
        if self.mood.value == "slow": time.sleep(3)
        if self.mood.value == "broken": raise HotsegError("a fault made on purpose")
        labels = ((rows // 32 + columns // 32 + self.move.value) % 19).astype(np.uint8)
        return [Picture("classes", image, labels=labels),
                Picture("error", image, heat=np.hypot(rows, columns - 90. * self.move.value), low=0, high=300)]
""", "demo = Demo()\ndemo", "demo.canvas  # bare: a second view"]

EXPLORERS = ["""
from hotseg.explore.feedback import FeedbackPlayer
from hotseg.explore.hardness import HardnessExplorer
""", "player = FeedbackPlayer('streets')\nplayer", "hardness = HardnessExplorer('streets')\nhardness"]
HAZE = ["from hotseg.explore.turbulence import TurbulenceLab", "lab = TurbulenceLab(model='streets')\nlab",
        "lab.canvas  # bare: a second view"]
STILL = ".hotseg-still"
IS_STALE = "i => document.querySelectorAll('.hotseg-canvas')[i ?? 0].dataset.stale === '1'"
IS_FRESH = "i => document.querySelectorAll('.hotseg-canvas')[i ?? 0].dataset.stale === '0'"


@pytest.fixture(scope="module")
def album(tmp_path_factory, request):
    "Where the screenshots are kept"
    folder = Path(os.environ.get("HOTSEG_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    yield folder
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nscreenshots: {folder}", file=sys.stderr)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The notebooks"
    place = tmp_path_factory.mktemp("notebooks")
    write_notebook(place/"demo.ipynb", DEMO)
    write_notebook(place/"explorers.ipynb", EXPLORERS)
    write_notebook(place/"haze.ipynb", HAZE)
    return place


@pytest.fixture(scope="module")
def browser():
    "One for all; a function that opens a page"
    with browsing(width=1400, height=1300) as new_page: yield new_page


@pytest.fixture(scope="module")
def open_notebook(folder, browser):
    "In JupyterLab"
    with lab(folder, browser) as opened: yield opened


@pytest.fixture(scope="module", params=["lab", "voila"])
def front(request): return request.param


only_in_lab = pytest.mark.parametrize("front", ["lab"], indirect=True)


@contextmanager
def on_the(front, name, folder, request):
    "A notebook on one of the two front ends, its cells run"
    new_page = request.getfixturevalue("browser")
    if front == "voila":
        with voila(folder/name, new_page) as screen: yield screen
        return
    screen = request.getfixturevalue("open_notebook")(name)
    screen.run_all()
    yield screen
    screen.close()


@pytest.fixture(scope="module")
def demo(front, folder, request):
    with on_the(front, "demo.ipynb", folder, request) as screen:
        screen.wait_frame()
        screen.front = front
        yield screen


@pytest.fixture
def fresh(demo):
    "The demo when nothing is being computed"
    demo.wait(IS_FRESH)
    return demo


@pytest.fixture(scope="module")
def explorers(front, folder, request):
    with on_the(front, "explorers.ipynb", folder, request) as screen:
        for i in (0, 1): screen.wait_frame(0, i)
        screen.front = front
        yield screen


def differ(a, b):
    "Share of pixels, 0 .. 1, that are visibly other"
    return 1. if a.shape != b.shape else (np.abs(a.astype(int) - b).max(-1) > 16).mean()


def settled(screen, panel=0, i=0):
    "Pixels after the last drawing: two frames of the browser without a new picture"
    before = -1
    while before != (before := screen.frame(i)):
        screen.page.evaluate("() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")
    return screen.pixels(panel, i)


def changed(screen, act, panel=0, i=0, at_least=.01):
    "Do something; the picture must become another one"
    before, frame = settled(screen, panel, i), screen.frame(i)
    act()
    screen.wait_frame(frame, i)
    after = settled(screen, panel, i)
    assert differ(before, after) > at_least, (differ(before, after), screen.faults(), screen.errors)
    return before, after


def slide(screen, key="ArrowRight", which=0): screen.page.locator(".noUi-handle").nth(which).press(key)


def panel(screen, number=0, i=0): return screen.root(i).locator(f'canvas.hotseg-panel[data-panel="{number}"]')


def set_opacity(screen, value, i=0):
    screen.root(i).locator(".hotseg-opacity").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); "
        "e.dispatchEvent(new Event('change', {bubbles: true})); }", str(value))


def far_end(screen, i=0):
    "The end of the opacity control that is farther from where it stands"
    low, high, now = (float(screen.root(i).locator(".hotseg-opacity").evaluate(f"e => +e.{w}"))
                      for w in ("min", "max", "value"))
    return low if now - low > high - now else high


def try_local_controls(screen, i=0):
    "Opacity, a class, the palette and the zoom, without asking the kernel; each changes pixels and can be undone"
    root = screen.root(i)
    changed(screen, lambda: set_opacity(screen, far_end(screen, i), i), i=i)
    changed(screen, lambda: set_opacity(screen, far_end(screen, i), i), i=i)
    for control in (root.locator(".hotseg-class").nth(3), root.locator(".hotseg-safe")):
        before, _ = changed(screen, control.click, i=i)
        _, after = changed(screen, control.click, i=i)
        assert differ(before, after) == 0
    panel(screen, 0, i).focus()
    before, _ = changed(screen, lambda: screen.page.keyboard.press("+"), i=i)
    _, after = changed(screen, lambda: screen.page.keyboard.press("0"), i=i)
    assert differ(before, after) == 0


# The canvas, in JupyterLab and in Voila

def test_opens(fresh, album):
    "Two panels of real size, full of colours, and no complaint of the scripts"
    fresh.shot(album/f"canvas-{fresh.front}.png")
    for number in (0, 1):
        box, pixels = panel(fresh, number).bounding_box(), fresh.pixels(number)
        assert box["width"] > 200 and box["height"] > 100
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert fresh.errors == []


def test_control_moves_the_picture(fresh):
    "Slider, kernel, pixels; and back to the very same pixels"
    before, _ = changed(fresh, lambda: slide(fresh), at_least=.2)
    _, after = changed(fresh, lambda: slide(fresh, "ArrowLeft"), at_least=.2)
    assert differ(before, after) == 0


def test_both_panels_follow(fresh):
    changed(fresh, lambda: slide(fresh), panel=1, at_least=.05)
    changed(fresh, lambda: slide(fresh, "ArrowLeft"), panel=1, at_least=.05)


def test_local_controls(fresh): try_local_controls(fresh)


def test_zoom_is_linked(fresh, album):
    "The wheel over one panel moves the other too"
    panel(fresh).hover()
    before, _ = changed(fresh, lambda: fresh.page.mouse.wheel(0, -400), panel=1)
    fresh.shot(album/f"zoomed-{fresh.front}.png")
    panel(fresh).focus()
    _, after = changed(fresh, lambda: fresh.page.keyboard.press("0"), panel=1)
    assert differ(before, after) == 0


def readout(screen, i=0): return screen.root(i).locator(".hotseg-readout").first.inner_text()


def test_keyboard(fresh, album):
    "Tab reaches a panel; arrows move the crosshair and are read out; Enter clicks; the rest needs no mouse either"
    panel(fresh).focus()
    fresh.page.keyboard.press("ArrowRight")
    first = readout(fresh)
    for _ in range(5): fresh.page.keyboard.press("ArrowDown")
    fresh.wait("t => document.querySelector('.hotseg-readout').innerText !== t", first)
    fresh.shot(album/f"keyboard-{fresh.front}.png")
    fresh.page.keyboard.press("Enter")
    fresh.page.get_by_text("clicked panel 0").wait_for()
    changed(fresh, lambda: fresh.page.keyboard.press("c"))
    changed(fresh, lambda: fresh.page.keyboard.press("c"))
    before, _ = changed(fresh, lambda: fresh.page.keyboard.press("["), at_least=0)
    _, after = changed(fresh, lambda: fresh.page.keyboard.press("]"), at_least=0)
    assert differ(before, after) == 0
    fresh.page.keyboard.press("Tab")
    assert fresh.page.evaluate("document.activeElement.dataset.panel") == "1"


def test_pointer(fresh):
    "Hover reads out class and value, a click and a shift-drag reach Python in pixels of the image"
    box = panel(fresh).bounding_box()
    x, y = box["x"] + .5 * box["width"], box["y"] + .5 * box["height"]
    fresh.page.mouse.move(x, y)
    fresh.wait("() => /\\d/.test(document.querySelector('.hotseg-readout').innerText)")
    fresh.page.mouse.click(x, y)
    fresh.page.get_by_text(re.compile(r"clicked panel 0 row 6[3-5] column 12[7-9]")).wait_for()
    fresh.page.keyboard.down("Shift")
    fresh.page.mouse.down()
    fresh.page.mouse.move(x + 40, y + 20, steps=4)
    fresh.page.mouse.up()
    fresh.page.keyboard.up("Shift")
    fresh.page.get_by_text("brushed panel 0").wait_for()


def choose(screen, mood): screen.page.locator(".widget-dropdown select").first.select_option(mood)


def test_stale_while_computing(fresh, album):
    "Old pictures are marked as old while the kernel is at it, and replaced by new ones"
    shown = settled(fresh)
    choose(fresh, "slow")
    fresh.wait(IS_STALE)
    fresh.shot(album/f"stale-{fresh.front}.png")
    assert fresh.root().get_by_text("computing").first.is_visible() and shown.std() > 10
    fresh.wait(IS_FRESH)
    choose(fresh, "quick")
    fresh.wait(IS_FRESH)


def test_a_failed_compute_says_so(fresh, album):
    choose(fresh, "broken")
    fresh.page.get_by_text("a fault made on purpose").first.wait_for()
    fresh.wait(IS_STALE)
    fresh.shot(album/f"failed-{fresh.front}.png")
    choose(fresh, "quick")
    fresh.wait(IS_FRESH)


def visible_stills(screen): return [e for e in screen.page.locator(STILL).all() if e.is_visible()]


def test_still_is_hidden_while_the_widget_lives(fresh):
    assert fresh.page.locator(STILL).count() == 1 and visible_stills(fresh) == []


# The life of a notebook in JupyterLab: saved, looked at elsewhere, restarted, run again, without a kernel, reopened

def readable(element):
    "A loaded picture of real size"
    box = element.bounding_box()
    natural = element.evaluate("e => (e.tagName === 'IMG' ? e : e.querySelector('img')).naturalWidth")
    return box["width"] > 300 and box["height"] > 100 and natural > 300


@only_in_lab
def test_still_for_a_stranger(fresh, folder, open_notebook, album):
    "Somebody else's Jupyter does not trust the notebook and knows no widget of it: the still is there all the same"
    fresh.save()
    notebook = json.loads((folder/"demo.ipynb").read_text(encoding="utf8"))
    notebook["cells"][1]["source"] = "demo = Demo()\ndemo  # changed outside of Jupyter"  # the signature is void
    (folder/"elsewhere.ipynb").write_text(json.dumps(notebook), encoding="utf8")
    screen = open_notebook("elsewhere.ipynb")
    pictures = screen.page.locator(".jp-OutputArea img")
    pictures.first.wait_for()
    screen.shot(album/"untrusted.png")
    assert screen.page.locator(".jp-OutputArea .jp-mod-trusted").count() == 0
    assert [readable(e) for e in pictures.all() if e.is_visible()] == [True]
    screen.close()


@only_in_lab
def test_still_on_a_web_page(fresh, folder, browser, album):
    "nbconvert's page has no kernel at all, and here no network either"
    fresh.save()
    page, _ = HTMLExporter().from_filename(str(folder/"demo.ipynb"))
    screen = Screen(browser())
    screen.page.route("**/*", lambda route: route.abort())
    screen.page.set_content(page, wait_until="domcontentloaded")
    screen.page.locator(STILL).first.wait_for(state="visible")
    screen.shot(album/"nbconvert.png")
    assert [readable(e) for e in visible_stills(screen)] == [True]
    screen.close()


@only_in_lab
def test_survives_a_restart(fresh, album):
    "What was shown stays readable, is marked as old, and its local controls go on; running again brings it to life"
    before = settled(fresh)
    fresh.restart()
    for view in (0, 1): fresh.wait(IS_STALE, view)
    fresh.shot(album/"restarted.png")
    assert differ(before, settled(fresh)) == 0
    try_local_controls(fresh)
    fresh.run_all()
    fresh.wait(IS_FRESH)
    changed(fresh, lambda: slide(fresh), at_least=.2)


@only_in_lab
def test_without_a_kernel_then_reopened(fresh, open_notebook, album):
    "A kernel that is shut down leaves local controls at work. Saved, and reopened by one that knows nothing: the still"
    fresh.shut_down()
    try_local_controls(fresh)
    fresh.wait(IS_STALE)
    fresh.shot(album/"dead.png")
    fresh.save()
    again = open_notebook("demo.ipynb")
    again.page.locator(STILL).first.wait_for(state="visible")
    again.shot(album/"reopened.png")
    assert [readable(e) for e in visible_stills(again)] == [True] and again.root().count() == 0
    again.close()


# The explorers, in JupyterLab and in Voila

NAMES = ["feedback", "hardness"]


@pytest.fixture(params=[0, 1], ids=NAMES)
def number(request): return request.param


def controls(screen, i):
    "The sliders that belong to a canvas"
    return screen.root(i).locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]").locator(".noUi-handle")


def all_pixels(screen, i):
    "Every panel of a canvas"
    settled(screen, 0, i)
    return [screen.pixels(p, i) for p in range(screen.root(i).locator("canvas.hotseg-panel:visible").count())]


def test_explorer_opens(explorers, number, album):
    "Several panels, full of colours; its still is hidden; the scripts do not complain"
    explorers.root(number).scroll_into_view_if_needed()
    explorers.shot(album/f"{NAMES[number]}-{explorers.front}.png")
    shown = all_pixels(explorers, number)
    assert len(shown) >= 3 and min(len(np.unique(p.reshape(-1, 3), axis=0)) for p in shown) > 1
    assert max(len(np.unique(p.reshape(-1, 3), axis=0)) for p in shown) > 100
    assert explorers.errors == [] and visible_stills(explorers) == []


def test_explorer_moves(explorers, number, album):
    "Its first slider changes pictures"
    before, frame = all_pixels(explorers, number), explorers.frame(number)
    controls(explorers, number).first.press("ArrowRight")
    explorers.wait_frame(frame, number)
    explorers.wait(IS_FRESH, number)
    after = all_pixels(explorers, number)
    explorers.root(number).scroll_into_view_if_needed()
    explorers.shot(album/f"{NAMES[number]}-moved-{explorers.front}.png")
    assert max(differ(a, b) for a, b in zip(before, after)) > .001


def test_explorer_zooms_by_keyboard(explorers, number):
    panel(explorers, 0, number).focus()
    before, _ = changed(explorers, lambda: explorers.page.keyboard.press("+"), i=number)
    _, after = changed(explorers, lambda: explorers.page.keyboard.press("0"), i=number)
    assert differ(before, after) == 0


@only_in_lab
def test_explorers_live_and_die(explorers, open_notebook, album):
    "Restarted kernel: marked as old, readable. Saved and reopened with a kernel that knows nothing: two stills"
    before = [all_pixels(explorers, i) for i in (0, 1)]
    explorers.restart()
    for i in (0, 1): explorers.wait(IS_STALE, i)
    assert all(differ(a, b) == 0 for i in (0, 1) for a, b in zip(before[i], all_pixels(explorers, i)))
    explorers.shot(album/"explorers-restarted.png")
    explorers.save()
    explorers.shut_down()
    again = open_notebook("explorers.ipynb")
    again.page.locator(STILL).last.wait_for(state="visible")
    again.shot(album/"explorers-reopened.png")
    assert [readable(e) for e in visible_stills(again)] == [True, True] and again.root().count() == 0
    again.close()


# The turbulence lab, in JupyterLab

@pytest.fixture(scope="module")
def haze(folder, open_notebook):
    screen = open_notebook("haze.ipynb")
    screen.run_all()
    screen.wait_frame()
    yield screen


def titles(screen): return screen.root().locator(".hotseg-title:visible").all_inner_texts()


def rests(screen): return int(screen.page.locator(".hotseg-hand").get_attribute("data-rests"))


def wait_rest(screen, above):
    screen.wait("n => +document.querySelector('.hotseg-hand').dataset.rests > n", above)
    screen.wait(IS_FRESH)


def record(screen): return screen.page.locator(".hotseg-hand code").inner_text()


def knob(screen, words):
    "A control by its label"
    label = screen.page.locator(".hotseg-lab .widget-label").filter(has_text=re.compile(rf"^{re.escape(words)}"))
    return label.locator("xpath=..")


def grip(screen, words):
    "The handle of a slider, and the middle of it"
    handle = knob(screen, words).locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    return handle, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_lab_opens(haze, album):
    haze.shot(album/"haze.png")
    assert titles(haze) == ["clean", "hazy", "flow", "folds", "prediction", "errors, clean label"]
    assert all(len(np.unique(haze.pixels(i).reshape(-1, 3), axis=0)) > 100 for i in (0, 1, 2))
    assert record(haze).startswith("Turbulence(strength_px=") and haze.errors == [] and visible_stills(haze) == []
    for words in ("folded, this draw", "hazy, warped label", "ceiling"):
        assert haze.page.locator(".hotseg-lab th").filter(has_text=words).count() == 1


def test_the_flow_is_drawn_as_arrows(haze, album):
    "And as colours when one likes; arrows are light and dark strokes, colours fill the panel"
    arrows = haze.root().locator(".hotseg-bar input[type=checkbox]:visible").first
    settled(haze, 2)
    over_photo = differ(haze.pixels(1), haze.pixels(2))
    assert .02 < over_photo < .6
    changed(haze, arrows.click, panel=2, at_least=.3)
    assert differ(haze.pixels(1), haze.pixels(2)) > over_photo
    changed(haze, arrows.click, panel=2, at_least=.3)


def test_a_drag_bends_at_once_and_the_rest_follows_its_release(haze, album):
    page, before, rested, frame, was = haze.page, settled(haze, 1), rests(haze), haze.frame(), record(haze)
    _, x, y = grip(haze, "strength, px rms")
    page.mouse.move(x, y)
    page.mouse.down()
    for i in range(12):
        page.mouse.move(x + 2 * i, y)
        page.wait_for_timeout(30)
    haze.wait_frame(frame)
    page.wait_for_timeout(500)  # longer than a hand that rests: this one holds
    haze.shot(album/"haze-held.png")
    assert differ(before, settled(haze, 1)) > .02 and record(haze) != was
    assert [t for t in titles(haze) if "before" in t] == ["prediction (before)", "errors, clean label (before)"]
    assert rests(haze) == rested
    page.mouse.up()
    wait_rest(haze, rested)
    haze.shot(album/"haze-released.png")
    assert titles(haze)[4:] == ["prediction", "errors, clean label"] and haze.errors == []


def test_slider_events_do_not_queue(haze):
    "Far more moves than can be drawn: the last one is shown, and not all of the others were computed"
    handle, *_ = grip(haze, "strength, px rms")
    rested, frame = rests(haze), haze.frame()
    handle.evaluate("""async (e) => { for (let i = 0; i < 150; i++) {
        const key = i % 3 ? 'ArrowRight' : 'ArrowLeft';
        e.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
        await new Promise(go => setTimeout(go, 2)); } }""")
    shown = float(knob(haze, "strength, px rms").locator(".widget-readout").inner_text())
    haze.wait("v => Math.abs(document.querySelector('.hotseg-hand code').innerText.match(/px=([0-9.]+)/)[1] - v) < .01",
              shown)
    haze.wait("() => ![...document.querySelectorAll('.hotseg-title')].some(e => e.innerText.includes('before'))")
    assert rests(haze) > rested and haze.frame() - frame < 150


def test_another_model_has_other_knobs(haze, album):
    assert knob(haze, "correlation, px").is_visible() and not knob(haze, "aperture, m").is_visible()
    rested = rests(haze)
    changed(haze, lambda: knob(haze, "model").locator("select").select_option(index=1), panel=2, at_least=.05)
    wait_rest(haze, rested)
    haze.shot(album/"haze-technion.png")
    assert knob(haze, "aperture, m").is_visible() and not knob(haze, "correlation, px").is_visible()
    assert "model='technion'" in record(haze)
    assert haze.page.locator(".hotseg-lab th").filter(has_text="Rytov").count() == 1
    rested = rests(haze)
    knob(haze, "strength in").locator("select").select_option(label="Cn²")
    wait_rest(haze, rested)
    assert "cn2=" in record(haze) and knob(haze, "Cn², m").is_visible()


def test_a_film_plays(haze):
    "Play moves the air; stop ends it, and then the rest follows"
    def frame(): return int(knob(haze, "frame").locator(".widget-readout").inner_text())
    buttons = haze.page.locator(".hotseg-lab .jupyter-widget-play button, .hotseg-lab .widget-play button")
    knob(haze, "boiling").locator(".noUi-handle").press("ArrowLeft")
    before = settled(haze, 1)
    buttons.first.click()
    haze.wait("t => +[...document.querySelectorAll('.hotseg-lab .widget-hslider')].find(e => "
              "e.querySelector('.widget-label')?.innerText === 'frame').querySelector('.widget-readout').innerText > 3")
    buttons.first.click()
    rested = rests(haze)
    wait_rest(haze, rested - 1)
    assert frame() > 3 and differ(before, settled(haze, 1)) > .01


def test_the_line_of_python_can_be_copied(haze):
    haze.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    haze.page.locator(".hotseg-hand button").click()
    haze.page.locator(".hotseg-hand [role=status]").filter(has_text="copied").wait_for()
    assert haze.page.evaluate("navigator.clipboard.readText()") == record(haze)


def test_the_lab_leaves_a_still(haze, open_notebook, album):
    "Saved, and reopened by a kernel that knows nothing"
    haze.save()
    haze.shut_down()
    haze.wait(IS_STALE)
    again = open_notebook("haze.ipynb")
    again.page.locator(STILL).first.wait_for(state="visible")
    again.shot(album/"haze-reopened.png")
    assert [readable(e) for e in visible_stills(again)] == [True] and again.root().count() == 0
    again.close()
    haze.close()
