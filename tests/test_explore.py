"""Both explorers without a front end: they open, move, make a still, and refuse what does not fit."""
import json
import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hotseg.core import HotsegError
from hotseg.data.scenes import StreetScenes
from hotseg.explore.feedback import FeedbackPlayer
from hotseg.explore.hardness import HardnessExplorer
from hotseg.explore.views import STILL_BYTES, still_html
from hotseg.feedback.losses import loop_weights
from hotseg.feedback.method import feedback_method
from hotseg.labels import CAMVID, CITYSCAPES, IGNORE
from hotseg.losses import pixel_cross_entropy
from hotseg.maps import boundary_distance
from hotseg.metrics import Calibration, Confusion
from hotseg.models.erfnet import erfnet
from hotseg.saved import open_model

STREETS = StreetScenes(3, 11, "valid", 64, 128)
PHOTO, LABEL = STREETS.read(0)
NET = erfnet(19, "smoke")
LOOP = feedback_method(CITYSCAPES, "corrected", "smoke", weights=loop_weights("published", None, CITYSCAPES)[:19])
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
    explorer = HardnessExplorer("streets", STREETS, maps=maps, by="rows")
    assert explorer.reading.correlations.shape == (9, 9) and explorer.canvas.shown[4].title == "rows"
    assert [name for name, *_ in explorer.reading.detectors][-3:] == list(maps)


# What does not fit


@BOTH
@pytest.mark.parametrize("where, named, words", [
    ("streetz", {}, "no such model or run"), ("streets", dict(index=10**6), "no such item"),
    ("streets", dict(index=-1), "no such item"), ("streets", dict(index="first"), "no such item"),
    ("streets", dict(arm="teacher"), "no such arm"), (7, {}, "no model"), (LOOP, {}, "does not know its classes"),
    (LOOP, dict(space=CITYSCAPES), "no image to look at"), (LOOP, dict(items=STREETS, space=CAMVID), "other classes"),
    ("streets", dict(items=StreetScenes(0)), "no image to look at")])
def test_both_refuse(opened, where, named, words):
    with pytest.raises(HotsegError, match=words): opened(where, **named)


@pytest.mark.parametrize("named, words", [
    (dict(by="luck"), "no such map"), (dict(share=0), "in percent"), (dict(share="all"), "in percent"),
    (dict(maps=dict(flat=np.zeros((3, 3)))), "another size"), (dict(maps=dict(loss=np.zeros((64, 128)))), "already"),
    (dict(maps=dict(words="words")), "not made of numbers"), (dict(maps=[np.zeros((64, 128))]), "come by name"),
    (dict(maps=dict(empty=np.full((64, 128), np.nan))), "no value at any scored pixel"),
    (dict(image=PHOTO[..., 0]), "one colour image"), (dict(image=PHOTO / 255), "one colour image"),
    (dict(image=PHOTO, target=LABEL[:9]), "differ in size"), (dict(image=PHOTO, by="loss"), "need labels"),
    (dict(image=PHOTO, target=np.where(LABEL == 0, 77, LABEL)), "neither class nor void"),
    (dict(image=PHOTO, target=np.where(LABEL == 0, 300, LABEL.astype(int))), "whole numbers in 0..255")])
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
