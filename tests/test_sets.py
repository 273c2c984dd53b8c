"""Files, pairs, lists and CamVid: bad inputs on generated trees, then the real data where HOTSEG_DATA has them."""
import multiprocessing
import os
import pickle
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hotseg.core import HotsegError
from hotseg.data.layouts import camvid
from hotseg.data.sets import (MappedItems, Resized, SegItems, choose, decode_file, find_pictures, folder_items,
                              image_size, read_label, read_names, read_pair, resize_pair, tags_of)
from hotseg.data.splits import CAMVID_VALID, day_or_dusk, sequence, time_blocks, time_seconds
from hotseg.labels import CAMVID, CITYSCAPES, LABEL_SPACES, VOC, LabelSpace


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
    (tmp_path/"camvid"/"train").mkdir(parents=True)
    refuses(lambda: camvid("holdout"), "no such part", "valid", tmp_path/"camvid")


# Files and folders that cannot be opened

def test_a_file_in_place_of_a_folder(tree):
    for call in (lambda: folder_items(tree/"images"/"a.png", tree/"labels", CAMVID, "demo"),
                 lambda: find_pictures(tree/"images"/"a.png", deep=True)):
        refuses(call, "the folder cannot be read", "a.png")
    (tree/"images"/"d.png").mkdir(); (tree/"labels"/"d.png").mkdir()
    assert items(tree).names == ("a", "b", "c")  # a folder called d.png is no picture
    refuses(lambda: decode_file(tree/"images"/"d.png"), "cannot be opened", "d.png")
    refuses(lambda: image_size(tree/"images"/"d.png"), "d.png")


def test_permission_denied(tree, monkeypatch):
    "Permissions do not bind root, so the refusal of the system is played"
    def denied(*_, **__): raise PermissionError(13, "Permission denied")
    found = items(tree)
    monkeypatch.setattr(os, "scandir", denied)
    refuses(lambda: items(tree), "the folder cannot be read", tree/"images", "Permission denied", "you may list")
    monkeypatch.setattr(Path, "read_bytes", denied)
    refuses(lambda: found.read(0), "cannot be opened", tree/"images"/"a.png", "Permission denied", "permissions")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_permission_denied_truly(tree):
    (tree/"images").chmod(0)
    try: refuses(lambda: items(tree), "cannot be read", tree/"images")
    finally: (tree/"images").chmod(0o755)


def test_folders_may_be_links(tree, tmp_path):
    (tmp_path/"linked").symlink_to(tree/"images", target_is_directory=True)
    assert folder_items(tmp_path/"linked", tree/"labels", CAMVID, "demo", names=["a", "c"]).names == ("a", "c")
    (tmp_path/"dead").symlink_to(tmp_path/"nowhere")
    refuses(lambda: find_pictures(tmp_path/"dead"), "folder not found", "dead")
    (tree/"images"/"d.png").symlink_to(tmp_path/"nowhere.png"); (tree/"labels"/"d.png").write_bytes(b"")
    refuses(lambda: items(tree).read(3), "not found", "d.png")


@pytest.mark.parametrize("name", ["tree in May", "été", "日本", "a.b.c", "100%", "{split}", "-n", "it's"])
def test_names_with_spaces_and_accents(tree, name):
    for folder in ("images", "labels"): (tree/folder/"a.png").rename(tree/folder/f"{name}.png")
    found = items(tree)
    assert name in found.names
    image, ids = found.read(found.names.index(name))
    assert image[0, 0].tolist() == [200, 100, 0] and (ids == 0).all()
    (tree/"list.txt").write_text(f"{name}\nb.png\n", encoding="utf8")
    assert set(items(tree, names=read_names(tree/"list.txt")).names) == {name, "b"}


def test_no_label_is_void(tree):
    found = folder_items(tree/"images", None, CAMVID, "target")
    image, ids = found.read(1)
    assert found.labels == (None,) * 3 and ids.shape == (8, 12) and (ids == 255).all()
    refuses(lambda: found.tags(1), "no label to take tags from", "b.png")
    assert found.subset(["b"]).labels == (None,)


def test_deep_folders(tree):
    for folder in ("images", "labels"):
        (tree/folder/"x"/"y").mkdir(parents=True)
        (tree/folder/"a.png").rename(tree/folder/"x"/"y"/"a.png")
    assert items(tree).names == ("b", "c") and items(tree, deep=True).names == ("a", "b", "c")
    (tree/"images"/"x"/"b.png").write_bytes((tree/"images"/"b.png").read_bytes())
    refuses(lambda: items(tree, deep=True), "two files with one name", "b.png")


# List files

@pytest.mark.parametrize("text, names", [
    (b"a\nb\n", ("a", "b")), (b"\xef\xbb\xbfa\r\nb\r\n", ("a", "b")), (b"\n\n  b  \n\n\ta.png\n", ("b", "a.png")),
    (b"only", ("only",)), ("é 1\nß\n".encode(), ("é 1", "ß"))])
def test_lists(tmp_path, text, names):
    (tmp_path/"list.txt").write_bytes(text)
    assert read_names(tmp_path/"list.txt") == names


@pytest.mark.parametrize("text, words", [
    (b"", "the list is empty"), (b"\n \r\n\xc2\xa0\n", "the list is empty"), (b"\xef\xbb\xbf", "the list is empty"),
    (b"a\nb\na\n", "['a']"), ("é".encode("latin1"), "not UTF-8"), ("a\n".encode("utf-16"), "not UTF-8")])
def test_bad_lists(tmp_path, text, words):
    (tmp_path/"list.txt").write_bytes(text)
    refuses(lambda: read_names(tmp_path/"list.txt"), tmp_path/"list.txt", words)
    refuses(lambda: read_names(tmp_path/"none.txt"), "not found", "none.txt")


@pytest.mark.parametrize("line", ["../labels/a.png", "/etc/passwd", "..", "x/../../a", "C:\\a.png", "./a"])
def test_a_list_names_files_not_paths(tree, line):
    refuses(lambda: items(tree, names=["a", line]), "files, not paths", repr(line), tree/"images")


def test_a_list_names_what_is_there(tree):
    refuses(lambda: items(tree, names=["a", "q", "r.jpg"]), "2: ['q', 'r']", tree/"images")
    (tree/"labels"/"b.png").unlink()
    refuses(lambda: items(tree, names=["a", "b"]), "1: ['b']", tree/"labels")
    assert items(tree, names=["a", "c"]).names == ("a", "c")


def test_a_listed_link_may_not_lead_out(tree, tmp_path):
    (tmp_path/"secret.png").write_bytes((tree/"images"/"a.png").read_bytes())
    (tree/"images"/"d.png").symlink_to(tmp_path/"secret.png")
    (tree/"images"/"e.png").symlink_to(tree/"images"/"a.png")
    files = find_pictures(tree/"images")
    refuses(lambda: choose(files, ["d"], tree/"images"), "leaves its folder", "d.png")
    assert list(choose(files, ["e", "a"], tree/"images")) == ["a", "e"]


def test_one_file_under_two_names_in_a_list(tree):
    refuses(lambda: items(tree, names=["a", "a.png"]), "twice", "['a']")


# Colours, sizes, tags, other spaces, other processes

def test_coloured_labels(tree):
    ids = np.array([[0, 15, 255, 20]], np.uint8)
    cv2.imwrite(str(tree/"colour.png"), VOC.colour_lut[ids][..., ::-1])
    assert (read_label(tree/"colour.png", VOC, coloured=True) == ids).all()
    picture = Image.fromarray(VOC.colour_lut[ids]).quantize(8)  # the same colours behind a palette in another order
    picture.save(tree/"palette.png")
    assert Image.open(tree/"palette.png").mode == "P"
    assert (read_label(tree/"palette.png", VOC, coloured=True) == ids).all()
    cv2.imwrite(str(tree/"alpha.png"), np.dstack([VOC.colour_lut[ids][..., ::-1], np.full((1, 4), 255, np.uint8)]))
    assert (read_label(tree/"alpha.png", VOC, coloured=True) == ids).all()
    cv2.imwrite(str(tree/"odd.png"), np.full((1, 4, 3), 7, np.uint8))
    refuses(lambda: read_label(tree/"odd.png", VOC, coloured=True), "colour not in the palette", "[7, 7, 7]", "odd.png")
    cv2.imwrite(str(tree/"ids.png"), ids)
    refuses(lambda: read_label(tree/"ids.png", VOC, coloured=True), "it stores ids", "ids.png")
    cv2.imwrite(str(tree/"deep.png"), np.zeros((1, 4, 3), np.uint16))
    refuses(lambda: read_label(tree/"deep.png", VOC, coloured=True), "uint16", "deep.png")


def test_size_is_held(tree):
    assert replace(items(tree), size=(8, 12)).read(0)[1].shape == (8, 12)
    refuses(lambda: replace(items(tree), size=(12, 8)).read(1), "(8, 12)", "(12, 8)", tree/"images"/"b.png",
            "complete=False")
    two = replace(items(tree), size=(8, 12)).subset(["a", "c"])  # as many items as a size has numbers
    assert two.size == (8, 12) and two.names == ("a", "c")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_image_size_is_in_the_header(tmp_path, suffix):
    cv2.imwrite(str(tmp_path/f"a{suffix}"), np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8))
    data = (tmp_path/f"a{suffix}").read_bytes()
    (tmp_path/f"b{suffix}").write_bytes(data[:len(data) // 2])
    assert image_size(tmp_path/f"a{suffix}") == image_size(tmp_path/f"b{suffix}") == (70, 90)
    (tmp_path/f"c{suffix}").write_bytes(b"no picture")
    refuses(lambda: image_size(tmp_path/f"c{suffix}"), "no picture header", f"c{suffix}")


def test_tags():
    assert tags_of(np.array([[0, 20, 255, 7]], np.uint8), VOC).tolist() == [int(i in (7, 20)) for i in range(1, 21)]
    assert tags_of(np.array([[0, 255]], np.uint8), VOC).sum() == 0
    assert tags_of(np.array([[0, 255]], np.uint8), CAMVID).tolist() == [1] + [0] * 10


def test_known_tags_win_and_follow_a_subset(tree):
    tags = tuple(tuple(int(k == i) for k in range(11)) for i in (3, 4, 5))
    some = replace(items(tree), known_tags=tags).subset(["c", "b"])
    assert [some.tags(i).argmax() for i in range(2)] == [4, 5]
    assert items(tree).tags(2).tolist() == [0, 0, 1] + [0] * 8


def test_mapped_items(tree):
    for name, stored in zip("abc", (7, 26, 5)):
        cv2.imwrite(str(tree/"labels"/f"{name}.png"), np.full((8, 12), stored, np.uint8))
    streets = folder_items(tree/"images", tree/"labels", CITYSCAPES, "demo")
    mapped = MappedItems(streets, CAMVID)
    assert [int(mapped.read(i)[1][0, 0]) for i in range(3)] == [3, 8, 255]
    assert (mapped.names, mapped.split, mapped.space, len(mapped)) == (streets.names, "demo", CAMVID, 3)
    assert mapped.tags(1).tolist() == [int(i == 8) for i in range(11)]
    assert mapped.subset(["b"], "one").names == ("b",) and mapped.subset(["b"], "one").split == "one"
    assert not hasattr(mapped, "instances") and not hasattr(mapped, "other")
    fruit = LabelSpace("fruit", ("apple",), ((1, 2, 3),), (0,))
    refuses(lambda: MappedItems(streets, fruit), "classes would be lost")


def _read_label_of(items): return len(items), items.space.name, items.read(1)[1].tolist(), items.tags(1).tolist()


def test_items_travel_to_a_spawned_worker(tree):
    found = items(tree)
    here = [_read_label_of(x) for x in (found, MappedItems(found, CAMVID))]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_read_label_of, [found, MappedItems(found, CAMVID)]) == here
    assert pickle.loads(pickle.dumps(found)).names == found.names


@pytest.mark.parametrize("name", sorted(LABEL_SPACES))
def test_every_space_reads_its_own_label(tmp_path, name):
    space = LABEL_SPACES[name]
    ids = np.array([[*range(len(space)), 255]], np.uint8)
    cv2.imwrite(str(tmp_path/"a.png"), np.zeros((1, ids.size, 3), np.uint8))
    cv2.imwrite(str(tmp_path/"l.png"), space.decode_lut[ids])
    one = SegItems((tmp_path/"a.png",), (tmp_path/"l.png",), ("a",), "demo", space)
    assert (one.read(0)[1] == ids).all()


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
