"""The reader of CamVid: bad inputs on generated trees, then the real data where HOTSEG_DATA has them."""
import os
import re
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hotseg.core import HotsegError
from hotseg.data.layouts import camvid
from hotseg.data.sets import Resized, decode_file, folder_items, read_pair, resize_pair
from hotseg.data.splits import CAMVID_VALID, day_or_dusk, sequence, time_blocks, time_seconds
from hotseg.labels import CAMVID


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


@pytest.fixture
def tree(tmp_path):
    "Two folders with three pairs of 12 x 8 pictures"
    for folder in ("images", "labels"): (tmp_path/folder).mkdir()
    for i, name in enumerate("abc"):
        cv2.imwrite(str(tmp_path/"images"/f"{name}.png"), np.full((8, 12, 3), (10 * i, 100, 200), np.uint8))
        cv2.imwrite(str(tmp_path/"labels"/f"{name}.png"), np.full((8, 12), i, np.uint8))
    return tmp_path


def items(tree, **how): return folder_items(tree/"images", tree/"labels", CAMVID, "demo", **how)


def test_pairs_by_name_and_reads_rgb(tree):
    (tree/"images"/"a.png").rename(tree/"images"/"a.PNG")
    (tree/"images"/".DS_Store").write_bytes(b"x"); (tree/"images"/"._a.png").write_bytes(b"x")
    found = items(tree)
    assert found.names == ("a", "b", "c") and len(found) == 3 and found.split == "demo"
    image, ids = found.read(2)
    assert image[0, 0].tolist() == [200, 100, 20] and ids.dtype == np.uint8 and (ids == 2).all()


def test_endings_pair_cityscapes_names(tmp_path):
    for folder, ending in (("images", "_leftImg8bit"), ("labels", "_gtFine_labelIds"), ("labels", "_gtFine_color")):
        (tmp_path/folder).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path/folder/f"aachen_000001_000019{ending}.png"), np.zeros((4, 4, 3), np.uint8))
    assert items(tmp_path, endings=("_leftImg8bit", "_gtFine_labelIds")).names == ("aachen_000001_000019",)


@pytest.mark.parametrize("gone, kind, where", [("labels/b.png", "image", "images/b.png"),
                                               ("images/b.png", "label", "labels/b.png")])
def test_a_file_without_its_partner(tree, gone, kind, where):
    (tree/gone).unlink()
    refuses(lambda: items(tree), f"{kind} without its partner", tree/where)


def test_equal_counts_do_not_hide_a_mismatch(tree):
    (tree/"labels"/"b.png").rename(tree/"labels"/"bb.png")
    refuses(lambda: items(tree), "images/b.png")


def test_folders(tree, tmp_path):
    (tmp_path/"empty").mkdir()
    refuses(lambda: folder_items(tmp_path/"empty", tree/"labels", CAMVID, "demo"), "no picture", "empty")
    refuses(lambda: folder_items(tmp_path/"none", tree/"labels", CAMVID, "demo"), "folder not found", "none")
    (tree/"images"/"a.jpg").write_bytes((tree/"images"/"a.png").read_bytes())
    refuses(lambda: items(tree), "two files with one name", "a.jpg", "a.png")


@pytest.mark.parametrize("label, words", [
    (np.full((8, 12), 12, np.uint8), ["outside the label space", "[12]"]),
    (np.full((8, 12), 3, np.uint16), ["uint16", "8-bit"]),
    (np.zeros((8, 12, 3), np.uint8), ["single-channel", "not colours"]),
    (np.zeros((8, 11), np.uint8), ["differ in size", "(8, 11)", "a.png"])])
def test_a_label_that_is_none(tree, label, words):
    cv2.imwrite(str(tree/"labels"/"a.png"), label)
    refuses(lambda: items(tree).read(0), tree/"labels"/"a.png", *words)


@pytest.mark.parametrize("shape, dtype", [((8, 12), np.uint8), ((8, 12, 4), np.uint8), ((8, 12, 3), np.uint16)])
def test_an_image_that_is_none(tree, shape, dtype):
    cv2.imwrite(str(tree/"images"/"a.png"), np.zeros(shape, dtype))
    refuses(lambda: items(tree).read(0), tree/"images"/"a.png", "8-bit RGB")


@pytest.mark.parametrize("suffix, palette", [(".png", False), (".png", True), (".jpg", False)])
@pytest.mark.parametrize("part", [0, .3, .6, .95])
def test_a_file_cut_short(tmp_path, suffix, palette, part):
    path = tmp_path/f"cut{suffix}"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    if palette: noise.putpalette(list(range(256)) * 3)
    noise.save(path)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * part)])
    refuses(lambda: decode_file(path), "cannot be decoded", path)


def test_a_damaged_label_does_not_pass(tmp_path):
    "PNG carries checksums: a flipped byte in the pixel data is noticed"
    path = tmp_path/"flipped.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 11, (64, 64), dtype=np.uint8))
    data = bytearray(path.read_bytes()); data[len(data) // 2] ^= 0x55
    path.write_bytes(bytes(data))
    refuses(lambda: decode_file(path), "cannot be decoded")


def test_not_a_picture_and_not_there(tmp_path):
    (tmp_path/"page.png").write_text("<html>404</html>")
    refuses(lambda: decode_file(tmp_path/"page.png"), "cannot be decoded", "16 bytes")
    refuses(lambda: decode_file(tmp_path/"none.png"), "not found", "none.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_ids_stay_ids(tmp_path, bits):
    ids = np.random.default_rng(bits).integers(0, min(2 ** bits, 12), (5, 7), dtype=np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette([128, 64, 128, 0, 0, 0] * 128)
    picture.save(tmp_path/"p.png", bits=bits)
    assert Image.open(tmp_path/"p.png").mode == "P"
    np.testing.assert_array_equal(decode_file(tmp_path/"p.png"), ids)


def test_grey_of_few_bits_is_refused(tmp_path):
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path/"one.png")
    refuses(lambda: decode_file(tmp_path/"one.png"), "fewer than 8 bits", "1 bits")


def test_subset(tree):
    some = items(tree).subset(["c", "a"], "some")
    assert some.names == ("a", "c") and some.split == "some" and (some.read(1)[1] == 2).all()
    refuses(lambda: items(tree).subset(["a", "q"]), "['q']")


def test_missing_root_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOTSEG_DATA", str(tmp_path))
    refuses(lambda: camvid("train"), tmp_path/"camvid", "HOTSEG_DATA")
    refuses(lambda: camvid("test"), "no such part", "valid")


@pytest.mark.parametrize("size", [(176, 240), (180, 240), (90, 120), (100, 100), (360, 480), (720, 960)])
def test_resize_keeps_image_and_label_aligned(size):
    columns = (np.arange(480) // 60).astype(np.uint8)
    label = np.repeat(columns[None], 360, 0)
    image, small = resize_pair(np.repeat(label[..., None] * 30, 3, -1), label, *size)
    assert image.shape == (*size, 3) and small.shape == size and set(np.unique(small)) <= set(columns)
    inner = np.ones(size, bool); inner[:, 1:] = inner[:, :-1] = False
    stable = (small[:, 2:-2] == small[:, :-4]) & (small[:, 2:-2] == small[:, 4:])
    assert stable.mean() > .5 and (image[:, 2:-2, 0][stable] == small[:, 2:-2][stable] * 30).all()
    if size != (100, 100): np.testing.assert_array_equal(small, 7 - small[:, ::-1])  # there 33 columns go: 16 and 17


def test_resized_decodes_once_and_hands_out_copies(tree):
    class Counting:
        names, split, space = ("a",), "demo", CAMVID
        reads = 0
        def __len__(self): return 1
        def read(self, i): self.reads += 1; return np.full((8, 12, 3), 7, np.uint8), np.full((8, 12), 3, np.uint8)
    source = Counting(); small = Resized(source, 4, 6)
    small.read(0)[1][:] = 9; small.read(0)[0][:] = 9
    assert source.reads == 1 and (small.read(0)[1] == 3).all() and (small.read(0)[0] == 7).all()
    uncached = Resized(source, 4, 6, cache=False); uncached.read(0); uncached.read(0)
    assert source.reads == 3


# The real data

HOME = Path(os.environ.get("HOTSEG_DATA", "data")).resolve()/"camvid"
real = pytest.mark.skipif(not (HOME/"train").is_dir(),
                          reason=f"no CamVid at {HOME}: set HOTSEG_DATA to the parent folder of camvid/")


@pytest.fixture(scope="module")
def parts(): return {split: camvid(split, HOME.parent) for split in ("train", "valid", "clip", "all-train")}


@real
def test_camvid_counts(parts):
    assert {k: len(v) for k, v in parts.items()} == {"train": 250, "valid": 81, "clip": 101, "all-train": 367}
    per_drive = {d: [sum(sequence(n) == d for n in parts[s].names) for s in ("train", "valid", "all-train")]
                 for d in CAMVID_VALID}
    assert per_drive == {"0001TP": [37, 17, 62], "0006R0": [73, 24, 101], "0016E5": [140, 40, 204]}
    assert .2 <= len(parts["valid"]) / len(parts["all-train"]) <= .25
    assert set(parts["train"].names) | set(parts["valid"].names) < set(parts["all-train"].names)


@real
def test_camvid_neighbours_are_a_second_apart(parts):
    "29 to 31 frames, but for the two places where drive 0016E5 pauses (one holds the clip)"
    steps = {drive: np.diff([int(re.search(r"\d+$", n)[0]) for n in parts["all-train"].names if sequence(n) == drive])
             for drive in CAMVID_VALID}
    assert (steps["0001TP"] == 30).all() and (steps["0006R0"] == 30).all()
    odd = steps["0016E5"][abs(steps["0016E5"] - 30) > 1]
    assert odd.tolist() == [1950, 270]
    assert (np.diff([time_seconds(n) for n in parts["clip"].names]) * 30).round().tolist() == [2] * 100


@real
def test_camvid_gaps_by_brute_force(parts):
    def closest(one, other):
        return min(abs(time_seconds(a) - time_seconds(b)) for a, b in product(parts[one].names, parts[other].names)
                   if sequence(a) == sequence(b))
    assert closest("train", "valid") >= 5 and closest("train", "clip") >= 5 and closest("valid", "clip") >= 5
    assert closest("all-train", "clip") < 1.5  # why the split keeps clear of the clip


@real
def test_camvid_validation_blocks_last_15_seconds(parts):
    for drive, blocks in CAMVID_VALID.items():
        for first, last in blocks:
            inside = [n for n in parts["valid"].names
                      if sequence(n) == drive and first <= round(time_seconds(n) * 30) <= last]
            assert time_seconds(inside[-1]) - time_seconds(inside[0]) >= 15
            assert len(inside) == round((last - first) / 30) + 1


@real
def test_camvid_pictures_ids_and_light(parts):
    "Every picture is 480 x 360, stored ids end at 11, dusk is dark, every class is on both sides by day and at dusk"
    luma, pixels = {"day": [], "dusk": []}, {}
    for split in ("train", "valid", "clip"):
        for i, name in enumerate(parts[split].names):
            image, ids = parts[split].read(i)
            assert image.shape == (360, 480, 3) and ids.shape == (360, 480)
            assert ids[ids != 255].max() <= 10
            assert decode_file(parts[split].labels[i]).max() <= 11
            luma[day_or_dusk(name)].append(image.mean())
            key = split, day_or_dusk(name)
            pixels[key] = pixels.get(key, 0) + np.bincount(ids.ravel(), minlength=256)[:11]
    assert np.percentile(luma["dusk"], 95) < np.percentile(luma["day"], 5)
    for split, light in product(("train", "valid"), ("day", "dusk")):
        assert (pixels[split, light] > 500).all(), (split, light)


@real
def test_camvid_published_png_form_reads_the_same(parts, tmp_path):
    "The owners publish PNG; one frame re-written as PNG gives the same pixels"
    items = parts["valid"]
    image, ids = items.read(0)
    cv2.imwrite(str(tmp_path/"frame.png"), image[..., ::-1])
    again, same = read_pair(tmp_path/"frame.png", items.labels[0], CAMVID)
    assert (again == image).all() and (same == ids).all()


@real
def test_time_blocks_are_ten_seconds(parts):
    blocks = time_blocks(parts["valid"].names)
    for block in range(blocks.max() + 1):
        inside = [n for n, b in zip(parts["valid"].names, blocks) if b == block]
        assert len({sequence(n) for n in inside}) == 1 and time_seconds(inside[-1]) - time_seconds(inside[0]) < 10
