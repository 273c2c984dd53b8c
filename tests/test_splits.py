"""The protocol's lists: the files, the rules, and the real sets they speak of where HOTSEG_DATA has them."""
import os
from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np
import pytest

from hotseg.core import HotsegError, embedded
from hotseg.data.sets import SegItems
from hotseg.data.splits import (CAMVID_COUNTS, CAMVID_GAP, CAMVID_LIGHT, FRACTIONS, MSRC_TWINS, camvid_part,
                                day_or_dusk, day_to_dusk, frame_number, label_fraction, msrc_tags, sequence, split_list,
                                stratified_folds, tags_from_masks, time_blocks, time_seconds, write_lists)
from hotseg.labels import MSRC

DATA = Path(os.environ.get("HOTSEG_DATA", "/nowhere"))
camvid = pytest.mark.skipif(not (DATA/"camvid").is_dir(), reason="HOTSEG_DATA has no camvid")
msrc = pytest.mark.skipif(not (DATA/"msrc").is_dir(), reason="HOTSEG_DATA has no msrc")
FRACTION_LISTS = [f"fraction-1-{k}-draw-{d}" for k, d in product(FRACTIONS, range(5))]


def gap(these, those):
    "Frames between the nearest two of one drive"
    pairs = ((a, b) for a, b in product(these, those) if sequence(a) == sequence(b))
    return min((abs(frame_number(a) - frame_number(b)) for a, b in pairs), default=10**9)


# The files

def test_the_files_are_what_the_rules_give(tmp_path):
    made = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in write_lists(tmp_path)}
    home = embedded("splits")
    kept = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.suffix in (".txt", ".tsv")}
    assert made == kept and sum(map(len, kept.values())) < 80_000


@pytest.mark.parametrize("path", sorted(embedded("splits").rglob("*.txt")), ids=lambda p: p.stem)
def test_one_plain_name_a_line(path):
    data = path.read_bytes()
    assert data.endswith(b"\n") and b"\n\n" not in data and not set(data) & set(b"\r/\\. ")
    names = split_list(path.parent.name, path.stem)
    assert len(names) == len(set(names)) == data.count(b"\n")


def test_no_such_list():
    for dataset, name in (("camvid", "trian"), ("camvid", "../msrc/fold-0-test"), ("voc", "train"), ("..", "README")):
        with pytest.raises(HotsegError): split_list(dataset, name)


# CamVid

def test_camvid_counts():
    assert {k: len(split_list("camvid", k)) for k in CAMVID_COUNTS} == CAMVID_COUNTS
    for part in ("train", "valid"): assert {camvid_part(n) for n in split_list("camvid", part)} == {part}


def test_camvid_parts_keep_their_distance():
    parts = [split_list("camvid", k) for k in ("train", "valid", "clip")]
    assert all(gap(a, b) >= CAMVID_GAP for a, b in combinations(parts, 2))
    assert all({day_or_dusk(n) for n in part} == {"day", "dusk"} for part in parts[:2])
    assert len({sequence(n) for n in parts[1]}) == 3


@pytest.mark.parametrize("name", FRACTION_LISTS)
def test_fractions(name):
    train, own = split_list("camvid", "train"), split_list("camvid", name)
    k = int(name.split("-")[2])
    assert len(own) == round(len(train) / k) and set(own) <= set(train) and list(own) == [n for n in train if n in own]


def test_fractions_grow_and_differ():
    for draw in range(5):
        chain = [set(split_list("camvid", f"fraction-1-{k}-draw-{draw}")) for k in FRACTIONS]
        assert all(a < b for a, b in zip(chain, chain[1:]))
    for k in FRACTIONS: assert len({split_list("camvid", f"fraction-1-{k}-draw-{d}") for d in range(5)}) == 5


def test_fractions_are_blocks():
    "Apart from the last, a five-second block is in a list with all its frames or with none"
    train = split_list("camvid", "train")
    blocks = dict(zip(train, time_blocks(train, 5).tolist()))
    whole = np.bincount(list(blocks.values()))
    for name in FRACTION_LISTS:
        part = np.bincount([blocks[n] for n in split_list("camvid", name)], minlength=len(whole))
        assert ((part > 0) & (part < whole)).sum() <= 1


def test_fractions_draw_from_every_drive():
    for name in FRACTION_LISTS:
        drives = {sequence(n) for n in split_list("camvid", name)}
        assert len(drives) == 3 or name.startswith("fraction-1-16") and len(drives) >= 2


def test_one_frame_at_least(): assert len(label_fraction(split_list("camvid", "train"), 1e-9)) == 1


def test_day_to_dusk():
    lists = {k: split_list("camvid", k) for k in day_to_dusk()}
    assert lists == day_to_dusk()
    assert all(day_or_dusk(n) == k.split("-")[0] for k, names in lists.items() for n in names)
    assert gap(lists["dusk-unlabelled"], lists["dusk-test"]) >= max(30, CAMVID_GAP)
    assert gap(lists["day-train"], lists["day-valid"]) >= CAMVID_GAP
    assert max(map(time_seconds, lists["dusk-unlabelled"])) < min(map(time_seconds, lists["dusk-test"]))
    assert set(lists["day-train"]) <= set(split_list("camvid", "train"))


@camvid
def test_camvid_lists_name_the_frames_on_disk():
    for folder, name in (("train", "all-train"), ("val", "clip")):
        assert {p.stem for p in (DATA/"camvid"/folder).iterdir()} == set(split_list("camvid", name))
    assert {sequence(n) for n in split_list("camvid", "all-train")} <= set(CAMVID_LIGHT)


@camvid
@pytest.mark.parametrize("name", ["train", "valid", "day-train", "day-valid", "dusk-unlabelled", "dusk-test"])
def test_every_class_is_in_every_part(name):
    files = (DATA/"camvid"/"trainannot"/f"{n}.png" for n in split_list("camvid", name))
    maps = (cv2.imread(str(f), cv2.IMREAD_UNCHANGED) for f in files)
    pixels = sum(np.bincount(m.ravel(), minlength=12)[:11] for m in maps)
    assert (pixels > 0).all() and pixels.min() / pixels.sum() > .001


# MSRC

FOLDS = [(split_list("msrc", f"fold-{k}-train"), split_list("msrc", f"fold-{k}-test")) for k in range(5)]


def test_folds_partition():
    assert sorted(n for _, test in FOLDS for n in test) == sorted(msrc_tags())
    for train, test in FOLDS: assert not set(train) & set(test) and len(train) + len(test) == 396


def test_folds_are_even():
    tags = msrc_tags()
    for c in MSRC.foreground:
        counts = [sum(c in tags[n] for n in test) for _, test in FOLDS]
        assert max(counts) - min(counts) <= 1, (c, counts)
    assert {len(test) for _, test in FOLDS} == {79, 80}


def test_twins_share_a_fold():
    for twins in MSRC_TWINS: assert any(set(twins) <= set(test) for _, test in FOLDS)


def test_folds_do_not_depend_on_the_order_of_names():
    tags = msrc_tags()
    assert stratified_folds(dict(reversed(tags.items())), 5, MSRC_TWINS) == stratified_folds(tags, 5, MSRC_TWINS)


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_any_number_of_folds(folds):
    "Images of no tag are spread too"
    tags = {f"{i:03}": ("a",) if i % 3 == 0 else ("a", "b") if i % 5 == 0 else () for i in range(100)}
    fold = stratified_folds(tags, folds)
    sizes = np.bincount(list(fold.values()), minlength=folds)
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 1
    rare = np.bincount([f for n, f in fold.items() if "b" in tags[n]], minlength=folds)
    assert rare.max() - rare.min() <= 1


def msrc_items():
    home = DATA/"msrc"
    names = tuple(n for s in ("train", "val") for n in (home/"ImageSets"/"Segmentation"/f"{s}.txt").read_text().split())
    return SegItems(tuple(home/"JPEGImages"/f"{n}.jpg" for n in names),
                    tuple(home/"SegmentationClass"/f"{n}.png" for n in names), names, "trainval", MSRC)


@msrc
def test_the_tags_are_those_of_the_masks(): assert tags_from_masks(msrc_items()) == msrc_tags()


@msrc
def test_no_other_twins():
    "Thumbnails of 16 x 16: one pair correlates at 0.99, the next at 0.92"
    items = msrc_items()
    pictures = (cv2.imread(str(p)) for p in items.images)
    small = np.stack([cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA).ravel() for p in pictures])
    alike = np.triu(np.corrcoef(small.astype(float)), 1)
    a, b = np.where(alike > .95)
    assert {frozenset((items.names[i], items.names[j])) for i, j in zip(a, b)} == {frozenset(t) for t in MSRC_TWINS}
