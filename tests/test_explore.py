"""The explorers without a front end: they open, move, make a still, and refuse what does not fit."""
import dataclasses
import gc
import json
import math
import shutil
import weakref
from html.parser import HTMLParser

import cv2
import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hotseg.core import HotsegError, torch_rng
from hotseg.data.scenes import StreetScenes
from hotseg.distort.sensor import TurbulenceSensor
from hotseg.distort.turbulence import Turbulence
from hotseg.distort.view import Motion, View
from hotseg.explore import air
from hotseg.explore.feedback import FeedbackPlayer
from hotseg.explore.hardness import HardnessExplorer
from hotseg.explore.rounds import Store
from hotseg.explore.turbulence import TurbulenceLab
from hotseg.explore.views import STILL_BYTES, still_html
from hotseg.feedback.losses import loop_weights
from hotseg.feedback.method import feedback_method
from hotseg.labels import CAMVID, CITYSCAPES, IGNORE
from hotseg.losses import pixel_cross_entropy
from hotseg.maps import PixelMap, boundary_distance
from hotseg.metrics import Calibration, Confusion
from hotseg.models.erfnet import erfnet
from hotseg.saved import open_model

STREETS = StreetScenes(3, 11, "valid", 64, 128)
PHOTO, LABEL = STREETS.read(0)
NET = erfnet(19, "smoke")
LOOP = feedback_method(CITYSCAPES, "corrected", "smoke", weights=loop_weights("published", None, CITYSCAPES)[:19],
                       identity_start=False)
BOTH = pytest.mark.parametrize("opened", [FeedbackPlayer, HardnessExplorer])


@pytest.fixture(scope="module")
def player(): return FeedbackPlayer("streets")


@pytest.fixture(scope="module")
def hardness(): return HardnessExplorer("streets", arm="clean")


def layers(explorer):
    "What the browser was sent: the layer of each panel"
    canvas = explorer.canvas
    return [getattr(canvas, f"layer{i}") for i in range(len(canvas.shown))]


def changed(explorer, move):
    "Titles of the panels whose pixels a move changes"
    before = [layer.get("values") for layer in layers(explorer)]
    move()
    return [now["title"] for old, now in zip(before, layers(explorer)) if now and now["values"] != old]


def drawn(explorer):
    "The pictures of a still"
    return [np.asarray(ax.images[0].get_array()) for ax in explorer.still().axes if ax.images]


# Opening

@BOTH
def test_opens_on_an_embedded_model_and_shows_pictures(opened):
    explorer = opened("streets")
    shown = [p for p in explorer.canvas.shown if p]
    assert len(shown) >= 6 and len({p.size for p in shown}) == 1
    assert not explorer.canvas.stale and "%" in explorer.note.value


@BOTH
def test_opens_on_a_run_folder_and_on_live_objects(opened, tmp_path):
    shutil.copytree(open_model("streets").folder, tmp_path/"copy")
    seen = [opened(where).canvas.layer1 for where in (tmp_path/"copy", str(tmp_path/"copy"), open_model("streets"))]
    assert seen[0] == seen[1] == seen[2]
    for named in ({}, dict(space=CITYSCAPES)): assert opened(LOOP, STREETS, **named).canvas.shown[0].size == (64, 128)
    assert seen[0]["rows"] == open_model("streets").rows


@BOTH
def test_is_displayed_without_a_front_end(opened, capsys):
    opened("streets")._ipython_display_()
    assert "VBox" in capsys.readouterr().out


@BOTH
def test_the_same_image_gives_the_same_bytes(opened):
    assert layers(opened("streets", index=2)) == layers(opened("streets", index=2)) != layers(opened("streets"))


# Moving

def test_the_player_scrubs(player):
    player.round.value = 0
    moved = changed(player, lambda: setattr(player.round, "value", 2))
    assert {"flow, round 2", "class change, 1 → 2"} <= set(moved) and "truth" not in moved
    assert changed(player, lambda: setattr(player.round, "value", 1)) != []
    assert changed(player, lambda: setattr(player.feedback, "value", "none")) != []
    player.feedback.value = "real"


def test_the_slider_moves_only_the_marks(hardness):
    hardness.share.value, hardness.by.value = 10., "loss"
    assert changed(hardness, lambda: setattr(hardness.share, "value", 30.)) == ["hardest 30 % by loss"]
    assert changed(hardness, lambda: setattr(hardness.by, "value", "entropy")) == ["entropy", "hardest 30 % by entropy"]
    assert len(changed(hardness, lambda: setattr(hardness.which, "value", 1))) >= 4
    assert hardness.by.value == "entropy" and hardness.share.value == 30.


def test_more_marks_catch_more_errors(hardness):
    hardness.by.value, told = "confidence", []
    for share in (5., 20., 60., 100.):
        hardness.share.value = share
        told.append((hardness.canvas.shown[5].marks.sum(), hardness.reading.order("confidence").at(share / 100).caught))
    assert told == sorted(told) and told[-1][1] == 1


def test_every_map_can_be_chosen(hardness):
    for name in hardness.by.options:
        hardness.by.value = name
        assert hardness.canvas.shown[4].title == name and f"by {name}" in hardness.note.value
        assert f"{name} by true class" in hardness.figures.value


def test_a_click_marks_the_pixel(hardness):
    hardness.by.value = "loss"
    row, column = np.argwhere(np.isfinite(hardness.reading.maps["loss"].values))[1000]
    hardness.canvas._receive(hardness.canvas, dict(kind="click", number=1, values=[0, int(row), int(column)]), [])
    assert hardness.canvas.shown[5].marks[row, column]
    void = np.argwhere(np.isnan(hardness.reading.maps["loss"].values))
    before = hardness.share.value
    if len(void): hardness.reach(0, *void[0])
    assert hardness.share.value == before


@BOTH
def test_a_failing_move_leaves_the_mark(opened):
    explorer = opened("streets")
    class Broken:
        modules = explorer.model.method.modules
        def predict(self, image): raise HotsegError("broken on purpose")
        def roll_out(self, *args): raise HotsegError("broken on purpose")
    explorer.model.method = Broken()
    which = explorer.which if opened is HardnessExplorer else explorer.image
    with pytest.raises(HotsegError, match="on purpose"): which.value = 1
    assert explorer.canvas.stale and "on purpose" in explorer.note.value


# Stills

@BOTH
def test_the_still_is_a_small_figure_of_all_panels(opened):
    explorer = opened("streets")
    figure = explorer.still()
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert isinstance(figure, Figure) and sum(bool(t) for t in titles) >= 6 and len(figure.axes) > 6
    html = still_html(figure)
    assert html.startswith('<img class="hotseg-still"') and 10_000 < len(html) <= STILL_BYTES


@BOTH
def test_the_still_follows_the_canvas(opened):
    explorer = opened("streets")
    before = drawn(explorer)
    explorer.canvas.opacity = 0.
    assert any(not np.array_equal(a, b) for a, b in zip(before, drawn(explorer)))


# The numbers

def test_the_numbers_are_the_house_s(hardness):
    hardness.which.value, hardness.air.value = 2, False
    reading = hardness.reading
    image, label = hardness.items.read(2)
    assert np.array_equal(reading.image, image) and np.array_equal(reading.truth, label)
    seen = torch.tensor(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode(): logits = hardness.model.method.predict(seen)
    scored, guess = label != IGNORE, logits[0].argmax(0).numpy()
    loss = pixel_cross_entropy(logits, torch.tensor(label)[None])[0].numpy()
    assert np.allclose(reading.maps["loss"].values[scored], loss[scored], atol=1e-5)
    assert np.array_equal(reading.maps["error"].values[scored], (guess != label)[scored])
    assert np.array_equal(reading.maps["distance"].values[scored], boundary_distance(label)[scored])
    calibration = Calibration()
    calibration.add(reading.maps["confidence"].values[scored], (guess == label)[scored])
    assert abs(reading.order("confidence").auroc() - calibration.auroc()) < 2e-3
    assert reading.numbers["miou"] == pytest.approx(Confusion(19).add(guess.astype(np.uint8), label).miou())


def test_what_is_caught_is_counted(hardness):
    "The sentence under the controls, counted again from the pixels that are marked"
    hardness.by.value, hardness.share.value = "entropy", 15.
    marks, error = hardness.canvas.shown[5].marks > 0, hardness.reading.maps["error"].values
    caught = np.nansum(error[marks]) / np.nansum(error)
    assert f"hold {100 * caught:.1f} % of the errors" in hardness.note.value
    assert marks[np.isfinite(error)].mean() == pytest.approx(.15, abs=1e-3) and not marks[np.isnan(error)].any()


# Without labels

@pytest.mark.parametrize("target", [None, np.full_like(LABEL, IGNORE)])
def test_confidence_and_entropy_need_no_labels(target):
    explorer = HardnessExplorer("streets", image=PHOTO, target=target)
    assert explorer.by.options == ("confidence", "margin", "entropy")
    assert len([p for p in explorer.canvas.shown if p]) == 4
    explorer.by.value, explorer.share.value = "entropy", 50.
    assert explorer.canvas.shown[3].marks.mean() == pytest.approx(.5, abs=.01) and "no labels" in explorer.note.value
    assert isinstance(explorer.still(), Figure)


def test_items_with_and_without_labels_follow_each_other():
    class Mixed(StreetScenes):
        def read(self, i):
            image, label = super().read(i)
            return image, np.full_like(label, IGNORE) if i == 1 else label
    explorer = HardnessExplorer("streets", Mixed(3, 0, "valid", 64, 128))
    explorer.which.value = 1
    assert (explorer.by.value, len([p for p in explorer.canvas.shown if p])) == ("confidence", 4)
    explorer.which.value = 2
    assert (explorer.by.value, len([p for p in explorer.canvas.shown if p])) == ("confidence", 6)


def test_an_image_without_errors():
    truth = torch.nn.functional.one_hot(torch.tensor(LABEL % 19).long(), 19).permute(2, 0, 1)[None]
    class Oracle(torch.nn.Module):
        def forward(self, x): return 9. * truth
    explorer = HardnessExplorer(Oracle(), image=PHOTO, target=LABEL, space=CITYSCAPES)
    assert "there is none" in explorer.note.value and "nothing to catch" in explorer.figures.value
    assert isinstance(explorer.still(), Figure)


def test_further_maps_join():
    def darkness(image, logits, target): return 255 - image.mean(-1)
    maps = dict(darkness=darkness, rows=np.indices((64, 128))[0], tensor=torch.rand(64, 128))
    explorer = HardnessExplorer(NET, STREETS, maps=maps, by="rows")
    assert explorer.reading.correlations.shape == (9, 9) and explorer.canvas.shown[4].title == "rows"
    assert [name for name, *_ in explorer.reading.detectors][-3:] == list(maps)


def test_an_empty_map_does_not_disturb_the_others():
    explorer = HardnessExplorer(NET, STREETS, maps=dict(empty=np.full((64, 128), np.nan)))
    full = HardnessExplorer(NET, STREETS)
    assert np.array_equal(explorer.reading.correlations[:-1, :-1], full.reading.correlations)
    assert [n for n, *_ in explorer.reading.detectors] == [n for n, *_ in full.reading.detectors]
    assert ">-<" in explorer.figures.value and "nan" not in explorer.figures.value + explorer.words
    assert isinstance(explorer.still(), Figure)
    with pytest.raises(HotsegError, match="map 'empty'"): explorer.by.value = "empty"
    explorer.by.value = "loss"
    assert not explorer.canvas.stale


def test_title_and_words_agree_on_ties(hardness):
    hardness.by.value, hardness.share.value = "distance", 10.
    share = hardness.canvas.shown[5].title.split()[1]
    assert f"hardest {share} % by distance" in hardness.words and float(share) > 10
    known = np.isfinite(hardness.reading.maps["distance"].values)
    assert (hardness.canvas.shown[5].marks[known] > 0).mean() == pytest.approx(float(share) / 100, rel=.01)


def test_the_truth_lies_on_the_clean_image(hardness):
    hardness.air.value = True
    shown = {p.title: p.image for p in hardness.canvas.shown}
    assert np.array_equal(shown["truth"], hardness.items.read(hardness.which.value)[0])
    assert not np.array_equal(shown["truth"], shown["input"])


# Names from outside

HOSTILE = "<img src=x onerror=alert(1)> $_$ &amp;"


class Elements(HTMLParser):
    "The elements of a piece of HTML"
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
    def handle_starttag(self, tag, attrs): self.found += [tag] + [name for name, _ in attrs if name.startswith("on")]


def hostile_items():
    space = dataclasses.replace(CITYSCAPES, classes=(HOSTILE,) * 1 + CITYSCAPES.classes[1:])
    items = StreetScenes(2, 0, "valid", 64, 128)
    items.space, items.names = space, [HOSTILE, "b"]
    return items


def test_names_from_outside_are_text():
    items, noise = hostile_items(), PixelMap(np.random.default_rng(0).random((64, 128), np.float32), unit=HOSTILE)
    explorer = HardnessExplorer(NET, items, maps={HOSTILE: noise}, by=HOSTILE, space=items.space)
    player = FeedbackPlayer(LOOP, items, space=items.space, plain=NET)
    for one in (explorer, player):
        pages = [w.value for w in ipywidgets.Widget.widgets.values() if isinstance(w, ipywidgets.HTML)]
        assert not {"img", "onerror"} & {e for page in pages for e in Elements(page).found}
        assert Elements(one._still()).found == ["img"] and "&amp;amp;amp;" not in one._still()
        one.still().draw_without_rendering()
        one.close()
    assert explorer.which.options[0][0] == HOSTILE
    assert explorer.canvas.shown[4].title == HOSTILE == explorer.canvas.shown[4].unit


# Work that is cut short, and explorers that are put away

def test_an_interrupted_roll_out_recovers():
    player, whole, look, calls = FeedbackPlayer(LOOP, STREETS), FeedbackPlayer(LOOP, STREETS, index=1), LOOP.look, []
    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        return look(*args)
    LOOP.look = interrupted
    try:
        with pytest.raises(KeyboardInterrupt): player.image.value = 1
        assert player.canvas.stale
        player.refresh()
    finally: del LOOP.look
    assert not player.canvas.stale and layers(player) == layers(whole)


@BOTH
def test_a_closed_explorer_leaves_nothing(opened):
    before = {*ipywidgets.Widget.widgets}
    explorer = opened("streets")
    trace = weakref.ref(explorer)
    assert {*ipywidgets.Widget.widgets} > before
    explorer.close()
    assert {*ipywidgets.Widget.widgets} == before
    del explorer
    gc.collect()
    assert trace() is None


def test_the_store_is_bounded_by_bytes():
    player = FeedbackPlayer(LOOP, STREETS)
    full = player.store.nbytes
    player.store.limit = int(1.5 * full)
    for i in (1, 2, 0, 1): player.image.value = i
    assert full <= player.store.nbytes <= 2 * full and not player.canvas.stale
    assert Store().limit == 256 * 2**20


# Pictures from memory

WAYS = [PHOTO, PHOTO / 255, (PHOTO / 255).astype(np.float32), torch.from_numpy(PHOTO).permute(2, 0, 1),
        torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255, np.moveaxis(PHOTO, 2, 0)]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_an_image_comes_in_many_ways(way, tmp_path):
    cv2.imwrite(str(tmp_path/"a.png"), PHOTO[..., ::-1])
    for image in (WAYS[way], tmp_path/"a.png"):
        assert np.array_equal(HardnessExplorer(NET, image=image, space=CITYSCAPES).reading.image, PHOTO)
        player = FeedbackPlayer(LOOP, distorted=image, clean=image, target=torch.tensor(LABEL)[None], space=CITYSCAPES)
        assert np.array_equal(player.sight(0).photo, PHOTO) and player.sight(0).off == 0


@pytest.mark.parametrize("image, target, words", [
    (PHOTO * np.nan, None, "finite"), (PHOTO - .5, None, "0..1"), (torch.randn(3, 64, 128), None, "0..1"),
    (PHOTO[:0], None, "not one colour"), (PHOTO[..., 0], None, "not one colour"), ("no.png", None, "no.png"),
    (PHOTO.astype(int), None, "neither bytes"), (torch.rand(2, 3, 64, 128), None, "not one colour"),
    (None, LABEL, "but no"), (PHOTO, LABEL / 2, "whole numbers"), (PHOTO, LABEL[:9], "differ in size"),
    (PHOTO, np.full(LABEL.shape, 300), "neither class nor void"), (PHOTO, np.full(LABEL.shape, -1), "neither class"),
    (PHOTO, np.full_like(LABEL, 200), "neither class"), (PHOTO, "truth.png", "read_label"),
    (PHOTO, np.stack([LABEL] * 3, 2), "one label map")])
def test_what_is_no_image_or_truth_is_refused_alike(image, target, words):
    with pytest.raises(HotsegError, match=words): HardnessExplorer(NET, image=image, target=target, space=CITYSCAPES)
    with pytest.raises(HotsegError, match=words):
        FeedbackPlayer(LOOP, distorted=image, target=target, space=CITYSCAPES)


def test_a_large_image_is_brought_to_the_models_size():
    photo, label = (cv2.resize(x, (2048, 1024), interpolation=cv2.INTER_NEAREST) for x in (PHOTO, LABEL))
    model = open_model("streets")
    for explorer in (FeedbackPlayer(model, distorted=photo, clean=photo, target=label),
                     HardnessExplorer(model, image=photo, target=label)):
        assert explorer.canvas.shown[0].size == (model.rows, model.columns)
        assert "brought from 1024 x 2048 pixels" in explorer.words
    assert "brought" not in HardnessExplorer(NET, image=PHOTO, space=CITYSCAPES).words


def test_feedback_of_an_image_of_another_size():
    class Odd(StreetScenes):
        def read(self, i): return tuple(x[:64 - 9 * i, :128 - 5 * i] for x in super().read(i))
    player = FeedbackPlayer(LOOP, Odd(2, 0, "valid", 64, 128))
    real = player.looks()[1].flow
    player.feedback.value = "other"
    assert player.canvas.shown[0].size == (64, 128) and not np.array_equal(player.looks()[1].flow, real)


@BOTH
def test_safe_colours_reach_the_bars(opened):
    explorer = opened("streets")
    bars = explorer.figures if opened is HardnessExplorer else explorer.bars
    before = bars.value
    explorer.canvas.safe = True
    colours = [f"rgb{tuple(c)}" for c in explorer.coloured.palette]
    assert bars.value != before and explorer.coloured.palette != explorer.space.palette
    assert sum(c in bars.value for c in colours) >= 4
    explorer.canvas.safe = False
    assert bars.value == before


def test_flow_keeps_its_scale_over_the_rounds(player):
    seen = set()
    for player.round.value in (0, 3, 6, 1): seen.add(player.canvas.shown[2].high)
    assert len(seen) == 1


# What does not fit


@BOTH
@pytest.mark.parametrize("where, named, words", [
    ("streetz", {}, "no such model or run"), ("streets", dict(index=10**6), "no such item"),
    ("streets", dict(index=-1), "no such item"), ("streets", dict(index="first"), "no such item"),
    ("streets", dict(items=[1, 2]), "no items"), ("streets", dict(index=True), "no such item"),
    ("streets", dict(arm="teacher"), "no such arm"), (7, {}, "no model"), (LOOP, {}, "does not know its classes"),
    (LOOP, dict(space=CITYSCAPES), "no image to look at"), (LOOP, dict(items=STREETS, space=CAMVID), "other classes"),
    ("streets", dict(items=StreetScenes(0)), "no image to look at")])
def test_both_refuse(opened, where, named, words):
    with pytest.raises(HotsegError, match=words): opened(where, **named)


@pytest.mark.parametrize("named, words", [
    (dict(by="luck"), "no such map"), (dict(share=0), "in percent"), (dict(share="all"), "in percent"),
    (dict(maps=dict(flat=np.zeros((3, 3)))), "another size"), (dict(maps=dict(loss=np.zeros((64, 128)))), "already"),
    (dict(maps=dict(words="words")), "not made of numbers"), (dict(maps=[np.zeros((64, 128))]), "come by name"),
    (dict(maps=dict(empty=np.full((64, 128), np.nan)), by="empty"), "map 'empty': .*no value"),
    (dict(maps={3: np.zeros((64, 128))}), "come by name"),
    (dict(image=PHOTO[..., 0]), "one colour image"), (dict(image=PHOTO / 1.), "0..1"),
    (dict(image=PHOTO, target=LABEL[:9]), "differ in size"), (dict(image=PHOTO, by="loss"), "need labels"),
    (dict(image=PHOTO, target=np.where(LABEL == 0, 77, LABEL)), "neither class nor void"),
    (dict(image=PHOTO, target=np.where(LABEL == 0, 300, LABEL.astype(int))), "neither class nor void")])
def test_the_hardness_explorer_refuses(named, words):
    given = dict(items=STREETS, space=CITYSCAPES) | named
    with pytest.raises(HotsegError, match=words): HardnessExplorer(NET, **given)


def test_the_player_refuses_a_plain_network():
    with pytest.raises(HotsegError, match="no rounds"): FeedbackPlayer(NET, STREETS)
    with pytest.raises(HotsegError, match="no rounds"): FeedbackPlayer("streets", arm="clean")
    with pytest.raises(HotsegError, match="number of rounds"): FeedbackPlayer("streets", iterations=-1)


@BOTH
def test_a_half_finished_run_says_so(opened, tmp_path):
    shutil.copytree(open_model("streets").folder, tmp_path/"half")
    for weights in (tmp_path/"half"/"models").iterdir(): weights.unlink()
    record = json.loads((tmp_path/"half"/"run.json").read_text())
    (tmp_path/"half"/"run.json").write_text(json.dumps(record | dict(status="running")))
    with pytest.raises(HotsegError, match="has no feedback.safetensors"): opened(tmp_path/"half")


# The turbulence lab

@pytest.fixture
def lab():
    opened = TurbulenceLab(items=STREETS, model=NET)
    yield opened
    opened.close()


def knob(lab, name): return lab.knobs.named[name]


def shown_titles(lab): return [p.title for p in lab.canvas.shown if p]


def test_the_lab_opens_with_nothing():
    lab = TurbulenceLab()
    assert lab.turbulence == Turbulence(2., 4., height=360) and lab.canvas.shown[0].size == (256, 512)
    assert shown_titles(lab) == ["clean", "hazy", "flow", "folds", "cannot be undone"]
    assert lab.canvas.arrows and not lab.canvas.stale and not lab.todo and isinstance(lab.still(), Figure)
    lab.close()


@pytest.mark.parametrize("kind", ["elastic", "technion", "aperture"])
def test_what_is_shown_is_what_the_simulator_draws(kind):
    given = dict(correlation_px=4.) if kind == "elastic" else {}
    haze = Turbulence(strength_px=1.5, model=kind, height=64, **given)
    lab = TurbulenceLab(PHOTO, haze, target=LABEL)
    sample = haze.sample(64, 128, rng=torch_rng("turbulence lab", 0))
    hazy = sample.apply(torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255)
    assert np.allclose(lab.canvas.shown[2].flow, sample.flow[0], atol=1e-4)
    assert np.abs(lab.canvas.shown[1].image / 255 - hazy[0].permute(1, 2, 0).numpy()).max() < .02
    ceiling = sample.geometry_ceiling(torch.from_numpy(LABEL)[None], CITYSCAPES)
    assert lab.through.ceiling == pytest.approx(ceiling, abs=.5)
    lab.close()


def test_strength_scales_the_same_air(lab):
    flow = lab.through.flow.copy()
    knob(lab, "strength_px").value = 4.
    assert np.allclose(lab.through.flow, 2 * flow, atol=1e-4)
    lab.seed.value = 1
    assert not np.allclose(lab.through.flow, 2 * flow, atol=.1)


def test_a_step_draws_no_noise_and_computes_nothing_that_is_hidden(lab, monkeypatch):
    for name in ("flow", "folds", "prediction", "errors"): lab.views[name].value = False
    monkeypatch.setattr(Turbulence, "sample", lambda *a, **k: pytest.fail("noise was drawn"))
    monkeypatch.setattr(lab.judge, "labels", lambda *a: pytest.fail("the model was asked"))
    lab.hand.held = True
    knob(lab, "strength_px").value = 3.
    assert shown_titles(lab) == ["clean", "hazy"] and not {"lost", "ceiling"} & {*vars(lab.through)}


def test_what_is_slow_waits_for_the_release(lab):
    assert shown_titles(lab)[4:] == ["prediction", "errors, clean label"] and len(lab.scores) == 3
    lab.hand.held = True
    before, said = layers(lab), lab.said
    knob(lab, "strength_px").value = 5.
    assert shown_titles(lab)[4:] == ["prediction (before)", "errors, clean label (before)"] and lab.scores == {}
    assert layers(lab)[2]["values"] != before[2]["values"] and lab.said is said
    first = lab.canvas.shown[4]
    knob(lab, "strength_px").value = 6.
    assert lab.canvas.shown[4] is first
    lab.hand.held = False
    assert shown_titles(lab)[4:] == ["prediction", "errors, clean label"] and len(lab.scores) == 3 and not lab.todo


def test_only_the_models_knobs_are_seen(lab):
    def seen(): return {name for name, widget in lab.knobs.named.items() if widget.layout.display != "none"}
    assert seen() == {"strength_px", "correlation_px", "blur_px", "wind_px_s"}
    lab.knobs.kind.value = "technion"
    air_knobs = {"unit", "strength_px", "aperture_m", "focal_px", "distance_m", "outer_scale_m", "wind_m_s"}
    assert seen() == air_knobs | {"blur_px"}
    lab.knobs.unit.value = "d_over_r0"
    assert seen() == air_knobs - {"strength_px"} | {"blur_px", "d_over_r0"}
    assert lab.turbulence.tilt_px == pytest.approx(2, rel=2e-3)


RECORDS = [Turbulence(1.25, 7.5, .5, height=300), Turbulence(2., 4.),
           Turbulence(cn2=3e-15, model="technion", view=View(outer_scale_m=float("inf")), geometry="coded", height=512),
           Turbulence(strength_px=.3, model="technion", motion=Motion(wind_m_s=(3., -1.), boiling_s=.3), height=64),
           Turbulence(1., 9., height=64, sensor=TurbulenceSensor(noise=3.), motion=Motion(wind_px_s=(90., 0.)))]


@pytest.mark.parametrize("haze", RECORDS)
def test_a_record_comes_back_and_its_code_makes_it(haze):
    lab = TurbulenceLab(PHOTO, haze)
    names = {kind.__name__: kind for kind in (Turbulence, View, Motion, TurbulenceSensor)} | dict(math=math)
    assert lab.turbulence == haze == eval(lab.code(), names) and lab.hand.code == lab.code()
    lab.take(RECORDS[0])
    assert lab.turbulence == RECORDS[0]
    lab.close()


def test_the_whole_range_of_every_slider_is_words_and_pictures(lab, recwarn):
    "From end to end of each control, in every model: no error reaches the reader"
    for kind in ("technion", "elastic"):
        lab.knobs.kind.value = kind
        for name in sorted(lab.knobs.names() - {"unit"}):
            widget, was = knob(lab, name), knob(lab, name).value
            if hasattr(widget, "options"): ends = [v for _, v in (widget.options[0], widget.options[-1])]
            else: ends = [10**e if "Log" in type(widget).__name__ else e for e in (widget.min, widget.max)]
            for widget.value in (*ends, was):
                assert "px rms along each axis" in lab.words and "Error" not in lab.words and not lab.canvas.stale
    assert not [w for w in recwarn if "fold" in str(w.message)]


def test_a_failure_is_said_in_words(lab, monkeypatch):
    lab.knobs.kind.value = "technion"
    monkeypatch.setattr(Turbulence, "sample", lambda *a, **k: 1 / 0)
    lab.seed.value = 7
    assert "ZeroDivisionError" in lab.words and lab.canvas.stale
    monkeypatch.undo()
    lab.seed.value = 8
    assert "ZeroDivisionError" not in lab.words and not lab.canvas.stale


def test_doubts_are_told(lab):
    assert "fold over" not in lab.words
    knob(lab, "strength_px").value = 8.
    assert "will fold over others" in lab.words and "folded, expected" in lab.table.value


def test_a_film_goes_on_and_back(lab):
    knob(lab, "wind_px_s").value = 60.
    flows = {}
    for lab.frame.value in (1, 2, 3): flows[lab.frame.value] = lab.through.flow.copy()
    assert not np.allclose(flows[1], flows[2], atol=.1)
    lab.frame.value = 1
    assert np.array_equal(lab.through.flow, flows[1])
    draws = air.Draws(air.unit_haze(lab.turbulence), lab.scene, 0)
    draws.limit = 3 * draws[0].flow.nbytes
    films = [draws[k].flow.clone() for k in (0, 5, 1)]
    assert len(draws.kept) <= 3 and torch.equal(films[2], air.Draws(draws.haze, lab.scene, 0)[1].flow)


def test_the_scores_are_counted_again(lab):
    sample, said = lab.through.sample, lab.judge.labels(lab.through.hazy)
    bent = sample.labels_warped(torch.from_numpy(LABEL)[None], IGNORE)[0].numpy()
    for name, truth in (("hazy, clean label", LABEL), ("hazy, warped label", bent)):
        assert lab.scores[name] == pytest.approx(Confusion(19).add(said, truth).miou())
    assert all(f"{value:.1f} %" in lab.table.value for value in lab.scores.values())


def test_a_closed_lab_leaves_nothing():
    before = {*ipywidgets.Widget.widgets}
    lab = TurbulenceLab(PHOTO)
    trace = weakref.ref(lab)
    lab.close()
    assert {*ipywidgets.Widget.widgets} == before
    del lab
    gc.collect()
    assert trace() is None


@pytest.mark.parametrize("named, words", [
    (dict(picture=PHOTO[..., 0]), "one colour image"), (dict(target=LABEL), "but no"), (dict(index=7), "no such item"),
    (dict(items=[1, 2]), "no items"), (dict(model=7), "no model"), (dict(model="streetz"), "no such model"),
    (dict(turbulence=Turbulence(strength_px=.1, model="splitstep")), "bad model"),
    (dict(turbulence=Turbulence(1., 4., depth="scaled", reference_m=50.), picture=PHOTO), "depth map")])
def test_the_lab_refuses(named, words):
    with pytest.raises(HotsegError, match=words): TurbulenceLab(**named)
