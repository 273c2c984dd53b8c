"""Readers of the published layouts: faults on stand-ins, then true samples where HOTSEG_DATA has them."""
import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from hotseg.core import HotsegError
from hotseg.data.layouts import (READERS, acdc, camvid, camvid_full, cityscapes, folder, gta5, kitti, mismatched_sizes,
                                 msrc, open_items, read_info, segnet_part, voc, written)
from hotseg.data.measured import FAR, class_of, measured
from hotseg.data.sets import decode_file
from hotseg.labels import CAMVID, CAMVID32, CITYSCAPES, GTA5, MSRC, VOC, decode
from hotseg.metrics import Confusion

H, W = 8, 12


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


def save(path, pixels, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if palette is None: assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    else:
        picture = Image.fromarray(pixels)
        picture.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
        picture.save(path)


def photo(i=0): return np.full((H, W, 3), (10 * i, 100, 200), np.uint8)


def frame(home, split, city, n, kinds=("labelIds", "labelTrainIds", "instanceIds")):
    "One frame of Cityscapes: road over a car"
    name = f"{city}_{n:06}_000019"
    ids = np.zeros((H, W), np.uint8); ids[4:] = 13
    numbers = decode(ids, CITYSCAPES).astype(np.uint16); numbers[4:, 6:] = 26001
    stored = dict(labelIds=decode(ids, CITYSCAPES), labelTrainIds=ids, instanceIds=numbers)
    save(home/"leftImg8bit"/split/city/f"{name}_leftImg8bit.png", photo(n))
    for kind in kinds: save(home/"gtFine"/split/city/f"{name}_gtFine_{kind}.png", stored[kind])
    return name


@pytest.fixture
def streets(tmp_path):
    "Cityscapes with three frames in two cities"
    home = tmp_path/"cityscapes"
    for city, n in (("ulm", 0), ("aachen", 1), ("aachen", 2)): frame(home, "train", city, n)
    return home


def open_streets(home, **how): return cityscapes("train", home.parent, complete=False, **how)


# Cityscapes

def test_cityscapes_both_labels_agree(streets):
    one, other = open_streets(streets), open_streets(streets, labels="labelTrainIds")
    assert one.names == ("aachen_000001_000019", "aachen_000002_000019", "ulm_000000_000019") == other.names
    assert one.space.name == "cityscapes" and other.space.name == "cityscapes_train"
    for i in range(3): assert (one.read(i)[1] == other.read(i)[1]).all() and one.read(i)[0][0, 0, 0] == (10, 20, 0)[i]
    refuses(lambda: open_streets(streets, labels="color"), "'color'", "labelTrainIds")
    refuses(lambda: cityscapes("valid", streets), "no such part", "'valid'", "'val'", streets)


def test_cityscapes_counts(streets):
    refuses(lambda: cityscapes("train", streets.parent), "3 of 2975", streets, "complete=False")
    refuses(lambda: cityscapes("val", streets.parent), "folder not found", "leftImg8bit/val")


def test_cityscapes_test_part(streets):
    frame(streets, "test", "bonn", 5, kinds=())
    assert (cityscapes("test", streets, complete=False).read(0)[1] == 255).all()
    name = frame(streets, "test", "bonn", 5)
    save(streets/"gtFine"/"test"/"bonn"/f"{name}_gtFine_labelIds.png", np.full((H, W), 3, np.uint8))  # a dummy
    assert (cityscapes("test", streets, complete=False).read(0)[1] == 255).all()


def test_cityscapes_unpaired_and_doubled(streets):
    label = streets/"gtFine"/"train"/"ulm"/"ulm_000000_000019_gtFine_labelIds.png"
    data = label.read_bytes(); label.unlink()
    refuses(lambda: open_streets(streets), "image without its partner", "ulm_000000_000019_leftImg8bit.png", "1 such")
    label.write_bytes(data); (label.parent.parent/"aachen"/label.name).write_bytes(data)
    refuses(lambda: open_streets(streets), "two files with one name", label.name)


def test_cityscapes_size(streets):
    (streets/"hotseg.json").write_text(json.dumps(dict(counts=dict(train=3), height=1024, width=2048)))
    refuses(lambda: cityscapes("train", streets).read(0), "(8, 12)", "(1024, 2048)", "aachen_000001_000019_left")
    assert cityscapes("train", streets, complete=False).read(0)[1].shape == (H, W)


BAD_LABELS = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:40]), "cannot be decoded"),
    "empty": (lambda p: p.write_bytes(b""), "cannot be decoded"),
    "16 bits": (lambda p: save(p, np.full((H, W), 7, np.uint16)), "uint16"),
    "RGB": (lambda p: save(p, photo()), "ids, not colours"),
    "RGBA": (lambda p: cv2.imwrite(str(p), np.zeros((H, W, 4), np.uint8)), "(8, 12, 4)"),
    "1 bit": (lambda p: Image.fromarray(np.zeros((H, W), bool)).save(p), "fewer than 8 bits"),
    "wrong size": (lambda p: save(p, np.full((W, H), 7, np.uint8)), "image (8, 12), label (12, 8)"),
    "stray id": (lambda p: save(p, np.full((H, W), 77, np.uint8)), "[77]"),
    "HTML": (lambda p: p.write_text("<html>Sign in"), "cannot be decoded"),
    "JPEG ids": (lambda p: p.write_bytes(cv2.imencode(".jpg", np.arange(H * W, dtype=np.uint8).reshape(H, W) * 2)[1]),
                 "outside the label space")}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_bad_labels(streets, fault):
    path = streets/"gtFine"/"train"/"aachen"/"aachen_000001_000019_gtFine_labelIds.png"
    spoil, words = BAD_LABELS[fault]
    spoil(path)
    refuses(lambda: open_streets(streets).read(0), path, words)
    assert open_streets(streets).read(1)[1].shape == (H, W)  # the others are untouched


def test_palette_labels_are_ids(streets):
    path = streets/"gtFine"/"train"/"aachen"/"aachen_000001_000019_gtFine_labelIds.png"
    save(path, decode_file(path), np.arange(768) % 253)
    assert np.unique(open_streets(streets).read(0)[1]).tolist() == [0, 13]


BAD_IMAGES = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-20]), "cannot be decoded"),
    "grey": (lambda p: save(p, np.zeros((H, W), np.uint8)), "8-bit RGB"),
    "16 bits": (lambda p: save(p, np.zeros((H, W, 3), np.uint16)), "uint16"),
    "palette": (lambda p: save(p, np.zeros((H, W), np.uint8), np.arange(768) % 251), "8-bit RGB")}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_bad_images(streets, fault):
    path = streets/"leftImg8bit"/"train"/"aachen"/"aachen_000001_000019_leftImg8bit.png"
    spoil, words = BAD_IMAGES[fault]
    spoil(path)
    refuses(lambda: open_streets(streets).read(0), path, words)


# What hotseg wrote

def test_manifest_counts_replace_the_published(streets):
    manifest = streets/"hotseg.json"
    manifest.write_text(json.dumps(dict(counts=dict(train=3), height=H, width=W)))
    assert len(cityscapes("train", streets)) == 3 and cityscapes("train", streets).size == (H, W)
    manifest.write_text(json.dumps(dict(counts=dict(train=4), height=H, width=W)))
    refuses(lambda: cityscapes("train", streets), "3 of 4")
    manifest.write_text(json.dumps(dict(counts=dict(train=3, valid=9))))
    frame(streets, "valid", "jena", 1)
    refuses(lambda: cityscapes("valid", streets), "1 of 9")  # a part of its own


@pytest.mark.parametrize("text, words", [("{", "not valid JSON"), ("[]", "not the manifest"),
                                         ('{"counts": 3}', "not the manifest")])
def test_bad_manifest(streets, text, words):
    (streets/"hotseg.json").write_text(text)
    refuses(lambda: cityscapes("train", streets), words, streets/"hotseg.json")


def test_a_set_still_being_written(streets):
    (streets/"hotseg.part.json").write_text("{}")
    refuses(lambda: cityscapes("train", streets), "not written to its end", streets)
    assert written(streets.parent) == {}


# Roots

def test_root_may_be_a_link_parent_or_leaf(streets, tmp_path, monkeypatch):
    (tmp_path/"link").symlink_to(streets, target_is_directory=True)
    (tmp_path/"elsewhere").mkdir(); (tmp_path/"elsewhere"/"cityscapes").symlink_to(streets, target_is_directory=True)
    for root in (streets, streets.parent, tmp_path/"link", tmp_path/"elsewhere"):
        assert len(cityscapes("train", root, complete=False)) == 3
    monkeypatch.setenv("HOTSEG_DATA", str(tmp_path))
    assert len(open_items("cityscapes/train", complete=False)) == 3
    refuses(lambda: open_items("voc/val"), "no data set 'voc'", tmp_path/"voc", "HOTSEG_DATA")


def test_open_items():
    refuses(lambda: open_items("kitty/train"), "no such data", "'kitti'")
    refuses(lambda: open_items("kitti"), "<reader>/<split>")
    refuses(lambda: open_items("kitti/train", parts=3), "['parts']", "'complete'")
    assert all(list(r.__code__.co_varnames[:2]) == ["split", "root"] for r in READERS.values())
    assert all("complete" in r.__code__.co_varnames for r in READERS.values())


# GTA5

@pytest.fixture
def game(tmp_path):
    home = tmp_path/"gta5"
    for i in range(1, 7):
        save(home/"images"/f"{i:05}.png", photo(i))
        ids = np.full((H - (i == 2), W), (7, 34, 26, 0, 1, 23)[i - 1], np.uint8)
        save(home/"labels"/f"{i:05}.png", ids, np.arange(768) % 251)
    return home


def test_gta5_palette_and_mismatch(game):
    refuses(lambda: gta5("all", game), "6 of 24966")
    refuses(lambda: gta5("all", game, complete=False), "differ in size", "1: ('00002',)", "mismatched='skip'",
            game/"labels")
    fine = gta5("all", game, mismatched="skip", complete=False)
    assert fine.names == ("00001", "00003", "00004", "00005", "00006") and mismatched_sizes(fine) == ()
    assert [int(fine.read(i)[1][0, 0]) for i in range(5)] == [0, 13, 255, 255, 10]
    every = gta5("all", game, mismatched="unchecked", complete=False)
    refuses(lambda: every.read(1), "differ in size", "00002.png")
    refuses(lambda: gta5("all", game, mismatched="no", complete=False), "error, skip or unchecked")


def test_gta5_lists_and_mat(game):
    (game/"train.txt").write_text("00001.png\r\n\r\n00006.png\r\n")
    assert gta5("train", game).names == ("00001", "00006")
    refuses(lambda: gta5("val", game), "val.txt", "not found")
    savemat(game/"split.mat", dict(trainIds=np.array([[1], [3]]), valIds=np.array([[4]]), testIds=np.array([[5]])))
    assert gta5("val", game).names == ("00004",) and gta5("train", game).names == ("00001", "00006")
    refuses(lambda: gta5("valid", game), "split.mat", "'val'")
    for line in ("../images/00001.png", "/etc/passwd"):
        (game/"bad.txt").write_text(line + "\n")
        refuses(lambda: gta5("bad", game), "files, not paths", line)
    (game/"empty.txt").write_text("\n\n")
    refuses(lambda: gta5("empty", game), "the list is empty", "empty.txt")
    (game/"absent.txt").write_text("00009.png\n")
    refuses(lambda: gta5("absent", game), "1: ['00009']", game/"images")


def test_info(tmp_path):
    def info(**content): (tmp_path/"info.json").write_text(json.dumps(content)); return tmp_path/"info.json"
    pairs = [[i, int(t)] for i, t in enumerate(CITYSCAPES.encode_lut[:34])]
    for space in (CITYSCAPES, GTA5):
        assert read_info(info(label2train=pairs + [[-1, 255]], mean=[73.1, 82.9, 72.3]), space) == (73.1, 82.9, 72.3)
    refuses(lambda: read_info(info(label2train=[[7, 1]], mean=[0, 0, 0]), CITYSCAPES), "[(7, 1)]", "info.json")
    refuses(lambda: read_info(info(mean=[0, 0, 0]), CITYSCAPES), "label2train", "info.json")


# ACDC and KITTI

def test_acdc(tmp_path):
    home = tmp_path/"acdc"
    for k, c in enumerate(("fog", "night", "rain", "snow")):
        drive = f"GOPR00{k}"
        for part in ("train", "test"):
            save(home/"rgb_anon"/c/part/drive/f"{drive}_frame_000001_rgb_anon.png", photo(k))
        for kind, stored in (("labelTrainIds", k), ("labelIds", CITYSCAPES.stored_ids[k])):
            save(home/"gt"/c/"train"/drive/f"{drive}_frame_000001_gt_{kind}.png", np.full((H, W), stored, np.uint8))
    every = acdc("train", home, complete=False)
    assert every.split == "train" and [int(every.read(i)[1][0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert int(acdc("rain/train", home, labels="labelIds", complete=False).read(0)[1][0, 0]) == 2
    assert (acdc("test", home, complete=False).read(3)[1] == 255).all()
    for split, count in (("train", 1600), ("fog/train", 400), ("test", 2000)):
        refuses(lambda: acdc(split, home), f"of {count}")
    refuses(lambda: acdc("fog/valid", home), "no such part")
    for c in ("fog", "night", "rain", "snow"):
        save(home/"rgb_anon"/c/"val"/"A"/"A_rgb_anon.png", photo())
        save(home/"gt"/c/"val"/"A"/"A_gt_labelTrainIds.png", np.zeros((H, W), np.uint8))
    refuses(lambda: acdc("night/val", home), "1 of 106")
    refuses(lambda: acdc("val", home), "two items with one name", "['A']")


def test_kitti(tmp_path):
    for i, size in enumerate(((8, 12), (7, 11))):  # the sizes of KITTI vary
        save(tmp_path/"training"/"image_2"/f"{i:06}_10.png", np.zeros((*size, 3), np.uint8))
        save(tmp_path/"training"/"semantic"/f"{i:06}_10.png", np.full(size, 26, np.uint8))
        save(tmp_path/"training"/"instance"/f"{i:06}_10.png", np.full(size, 26 * 256 + i, np.uint16))
    items = kitti("train", tmp_path, complete=False)
    assert [items.read(i)[1].shape for i in range(2)] == [(8, 12), (7, 11)] and (items.read(0)[1] == 13).all()
    assert [int(measured(items, "instances").instances(i).max()) for i in range(2)] == [0, 26 * 256 + 1]
    refuses(lambda: kitti("train", tmp_path), "2 of 200")
    refuses(lambda: kitti("val", tmp_path), "no such part", "'test'")


# VOC and MSRC

@pytest.fixture
def objects(tmp_path):
    home = tmp_path/"voc"
    for i, name in enumerate(("2007_000032", "2007_000039", "an été 3")):
        ids = np.zeros((H, W), np.uint8); ids[2:6, 2:6], ids[2, 2] = i + 1, 255
        save(home/"JPEGImages"/f"{name}.jpg", photo(i))
        save(home/"SegmentationClassAug"/f"{name}.png", ids)
        if i < 2: save(home/"SegmentationClass"/f"{name}.png", ids, VOC.colour_lut)
        one = np.where(ids == i + 1, 1, ids).astype(np.uint8)
        if i < 2: save(home/"SegmentationObject"/f"{name}.png", one, VOC.colour_lut)
    (home/"ImageSets"/"Segmentation").mkdir(parents=True)
    return home


def listing(home, name, text): (home/"ImageSets"/"Segmentation"/f"{name}.txt").write_bytes(text.encode())


def test_voc_lists_of_both_kinds(objects):
    listing(objects, "val", "2007_000039\r\n2007_000032\r\n")
    listing(objects, "train_aug", "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
                                  "/JPEGImages/an été 3.jpg /SegmentationClassAug/an été 3.png\n")
    val, more = voc("val", objects, complete=False), voc("train_aug", objects, complete=False)
    assert val.names == ("2007_000032", "2007_000039") and more.names == ("2007_000032", "an été 3")
    assert {p.parent.name for p in val.labels} == {"SegmentationClass"}
    assert {p.parent.name for p in more.labels} == {"SegmentationClassAug"}
    assert val.tags(1).tolist() == [0, 1] + [0] * 18 and np.unique(more.read(1)[1]).tolist() == [0, 3, 255]
    refuses(lambda: voc("val", objects), "2 of 1449"); refuses(lambda: voc("train_aug", objects), "2 of 10582")
    listing(objects, "trainaug", "2007_000032\n"); (objects/"ImageSets"/"Segmentation"/"train_aug.txt").unlink()
    assert voc("train_aug", objects, complete=False).labels[0].parent.name == "SegmentationClassAug"
    own = objects/"mine.txt"; own.write_text("\ufeffan été 3.jpg\n", encoding="utf8")
    assert voc("mine", objects, labels="SegmentationClassAug", listing=own).names == ("an été 3",)


@pytest.mark.parametrize("line, words", [
    ("/JPEGImages/../x.jpg /SegmentationClass/x.png", "line not understood"), ("../x", "files, not paths"),
    ("/JPEGImages/x.jpg /SegmentationClass/y.png", "line not understood"),
    ("/Secret/x.jpg /SegmentationClass/x.png", "line not understood"),
    ("/JPEGImages/x.jpg /../x.png", "line not understood"), ("/", "line not understood"),
    ("/JPEGImages/x.jpg /a/x.png /b/x.png", "line not understood"),
    ("2007_000032  1", "listed, but not in the folder"), ("an été 3", "listed, but not in the folder"),
    ("/JPEGImages/2007_000032.jpg /Elsewhere/2007_000032.png", "folder not found")])
def test_voc_bad_lines(objects, line, words):
    listing(objects, "bad", f"2007_000039\n{line}\n" if line[0] != "/" else line + "\n")
    refuses(lambda: voc("bad", objects, complete=False), words, objects)


def test_voc_lists_that_mix_kinds_or_lack_a_frame(objects):
    listing(objects, "mixed", "2007_000039\n/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n")
    refuses(lambda: voc("mixed", objects), "lines of two kinds", "mixed.txt")
    refuses(lambda: voc("nolist", objects), "no list of this part", "['mixed']")


def test_voc_test_part_and_instances(objects):
    listing(objects, "test", "an été 3\n"); listing(objects, "val", "2007_000032\n2007_000039\n")
    assert (voc("test", objects, complete=False).read(0)[1] == 255).all()
    numbers = measured(voc("val", objects, complete=False), "instances").instances(1)
    assert np.unique(numbers).tolist() == [0, 1] and numbers[2, 2] == 0


def test_voc_tags_from_a_file(objects, tmp_path):
    listing(objects, "val", "2007_000032\n2007_000039\n")
    path = tmp_path/"tags.json"
    def tagged(content): path.write_text(json.dumps(content)); return voc("val", objects, tags=path, complete=False)
    items = tagged({"2007_000032": ["dog"], "2007_000039": [0] * 19 + [1], "other": []})
    assert [VOC.foreground[k] for i in range(2) for k in np.flatnonzero(items.tags(i))] == ["dog", "tvmonitor"]
    refuses(lambda: tagged({"2007_000032": ["dog"]}), "no tags for a name", "['2007_000039']", path)
    refuses(lambda: tagged({"2007_000032": ["hound"], "2007_000039": []}), "'hound'", path)
    refuses(lambda: tagged({"2007_000032": [1, 0], "2007_000039": []}), "20 zeros and ones", path)
    refuses(lambda: tagged([1, 2]), "not understood", path)
    refuses(lambda: tagged({"2007_000032": 3, "2007_000039": []}), "not understood", path)


def test_classes_file_makes_the_space(objects):
    listing(objects, "val", "2007_000032\n")
    (objects/"classes.txt").write_text("background\nball\nbox\n")
    (objects/"hotseg.json").write_text(json.dumps(dict(counts=dict(val=1), space="objects", height=H, width=W)))
    items = voc("val", objects)
    assert items.space.classes == ("background", "ball", "box")
    assert (items.space.name, items.space.background) == ("objects", 0)
    assert items.tags(0).tolist() == [1, 0]
    (objects/"classes.txt").write_text("\n".join(MSRC.classes))
    (objects/"hotseg.json").unlink()
    assert msrc("val", objects, complete=False).space is MSRC
    refuses(lambda: msrc("val", objects), "1 of 102")


# CamVid

def camvid_names():
    runs = [("0001TP_{:06}", 6690, 10380, 30), ("0006R0_f{:05}", 930, 3930, 30), ("0016E5_{:05}", 390, 2400, 30),
            ("0016E5_{:05}", 4350, 7920, 30), ("0016E5_{:05}", 7959, 8159, 2), ("0016E5_{:05}", 8190, 8640, 30),
            ("Seq05VD_f{:05}", 0, 5100, 30)]
    return [form.format(n) for form, a, b, step in runs for n in range(a, b + 1, step)]


def test_segnet_parts():
    "SegNet's folders, told from the names: 367 + 101 + 233 = 701"
    parts = [segnet_part(n) for n in camvid_names()]
    assert {p: parts.count(p) for p in ("train", "val", "test")} == {"train": 367, "val": 101, "test": 233}


def test_camvid_owners_form(tmp_path):
    home, ids = tmp_path/"camvid", np.array([[*range(31), 255]], np.uint8)
    for name in ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000"):
        save(home/"701_StillsRaw_full"/f"{name}.png", np.zeros((1, 32, 3), np.uint8))
        save(home/"LabeledApproved_full"/f"{name}_L.png", CAMVID32.colour_lut[ids])
    full = camvid_full("all", home, classes=31, complete=False)
    assert len(full) == 3 and (full.read(0)[1] == ids).all()
    eleven = camvid_full("all", home, complete=False)
    assert eleven.space is CAMVID and set(np.unique(eleven.read(1)[1]).tolist()) == {*range(11), 255}
    assert [camvid_full(p, home, complete=False).names for p in ("train", "clip", "test")] == [
        ("0001TP_006690",), ("0016E5_07959",), ("Seq05VD_f00000",)]
    refuses(lambda: camvid_full("all", home), "3 of 701"); refuses(lambda: camvid_full("half", home), "no such part")
    save(home/"LabeledApproved_full"/"0001TP_006690_L.png", np.full((1, 32, 3), 9, np.uint8))
    refuses(lambda: full.read(0), "colour not in the palette", "[9, 9, 9]", "0001TP_006690_L.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_test_folder_png_and_jpeg(tmp_path, suffix):
    (tmp_path/"train").mkdir()
    save(tmp_path/"test"/f"Seq05VD_f00000{suffix}", photo())
    save(tmp_path/"testannot"/"Seq05VD_f00000.png", np.full((H, W), 11, np.uint8))
    assert (camvid("test", tmp_path, complete=False).read(0)[1] == 255).all()
    refuses(lambda: camvid("test", tmp_path), "1 of 233")


# Plain folders

def test_folder_with_own_space(tmp_path):
    (tmp_path/"space.toml").write_text('void = [9]\n[[class]]\nname = "soil"\n[[class]]\nname = "apple"\nid = 4\n')
    for name in ("α 1", "b"):
        save(tmp_path/"set"/"summer"/"rgb"/f"{name}_photo.png", photo())
        save(tmp_path/"set"/"summer"/"ids"/f"{name}.png", np.array([[0, 4, 9]], np.uint8).repeat(4, 1).repeat(H, 0))
    how = dict(space=tmp_path/"space.toml", images="{split}/rgb", labels="{split}/ids", endings=("_photo", ""))
    items = folder("summer", tmp_path/"set", **how)
    assert items.names == ("b", "α 1") and np.unique(items.read(1)[1]).tolist() == [0, 1, 255] and len(items.space) == 2
    (tmp_path/"set"/"summer.txt").write_text("α 1_photo.png\n", encoding="utf8")
    assert open_items("folder/summer", tmp_path/"set", **how).names == ("α 1",)
    assert open_items("folder/summer", tmp_path/"set", **how | dict(labels=None)).labels == (None,)
    refuses(lambda: folder("winter", tmp_path/"set", **how), "folder not found", "winter")
    refuses(lambda: folder("summer", tmp_path/"set", **how | dict(listing=tmp_path/"no.txt")), "not found", "no.txt")
    refuses(lambda: folder("summer", tmp_path/"set", **how | dict(space="soils")), "no such label space")


# Disparity and camera

def depth_files(home, name="ulm_000000_000019", codes=None, camera=None):
    city = name.split("_")[0]
    codes = np.full((H, W), 2561, np.uint16) if codes is None else codes
    save(home/"disparity"/"train"/city/f"{name}_disparity.png", codes)
    (home/"camera"/"train"/city).mkdir(parents=True, exist_ok=True)
    told = dict(extrinsic=dict(baseline=.2), intrinsic=dict(fx=2000.)) if camera is None else camera
    (home/"camera"/"train"/city/f"{name}_camera.json").write_text(json.dumps(told))


def test_depth(streets):
    codes = np.zeros((H, W), np.uint16); codes[0], codes[1] = 2561, 1
    for name in open_streets(streets).names: depth_files(streets, name, codes)
    items = measured(open_streets(streets), "instances", "depth")
    depth = items.depth(2)
    assert depth.dtype == np.float32 and np.isfinite(depth).all()
    assert np.allclose(depth[0], .2 * 2000 / 10) and (depth[1:] == FAR).all()  # 10 pixels are 40 m
    assert (items.known(2) == (codes > 0)).all() and items.instances(0).dtype == np.uint16
    assert np.unique(items.instances(0)).tolist() == [0, 26001]
    assert np.unique(class_of(items.instances(0))).tolist() == [0, 26]
    one = pickle.loads(pickle.dumps(items.subset(["ulm_000000_000019"])))
    assert (one.depth(0) == depth).all() and len(one.camera_files) == len(one) == 1


def test_depth_faults(streets):
    refuses(lambda: measured(open_streets(streets), "depth"), "not found", "_disparity.png", "3 of 3 missing")
    for name in open_streets(streets).names: depth_files(streets, name)
    items = measured(open_streets(streets), "depth")
    refuses(lambda: items.instances(0), "no instance"); refuses(lambda: measured(items, "normals"), "does not measure")
    refuses(lambda: measured(items), "ask for")
    depth_files(streets, codes=np.zeros((H, W), np.uint8)); refuses(lambda: items.depth(2), "not a disparity", "uint8")
    depth_files(streets, codes=np.zeros((4, 4), np.uint16)); refuses(lambda: items.depth(2), "picture's size", "(4, 4)")
    for camera in ({}, dict(extrinsic=dict(baseline="x"), intrinsic=dict(fx=1)), [], dict(extrinsic=3)):
        depth_files(streets, camera=camera); refuses(lambda: items.depth(2), "not a camera file", "_camera.json")
    depth_files(streets, camera=dict(extrinsic=dict(baseline=-.2), intrinsic=dict(fx=2000)))
    refuses(lambda: items.depth(2), "above 0", "_camera.json")
    path = streets/"disparity"/"train"/"ulm"/"ulm_000000_000019_disparity.png"; path.write_bytes(path.read_bytes()[:60])
    refuses(lambda: items.depth(2), "cannot be decoded", path)


def test_layouts_that_measure_nothing(tmp_path):
    save(tmp_path/"images"/"a.png", photo()); save(tmp_path/"labels"/"a.png", np.full((H, W), 7, np.uint8))
    refuses(lambda: measured(folder("x", tmp_path), "instances"), "measures nothing", "a.png")


# True samples

HOME = Path(os.environ.get("HOTSEG_DATA", "data")).resolve()


def real(path):
    return pytest.mark.skipif(not (HOME/path).is_dir(), reason=f"no {HOME/path}: set HOTSEG_DATA to its parent folder")


def perfect(items):
    "Confusion of the truth with itself"
    found = Confusion(len(items.space))
    for i in range(len(items)): found.add(items.read(i)[1], items.read(i)[1])
    return found


def edge_contrast(image, ids):
    "Mean luma step across label edges over the mean step anywhere"
    luma = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(np.float32)
    step = cv2.magnitude(cv2.Sobel(luma, cv2.CV_32F, 1, 0), cv2.Sobel(luma, cv2.CV_32F, 0, 1))
    edge = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    return step[edge].mean() / step.mean()


def on_edges(items):
    "Mean edge contrast of some items, as read and with the label moved by (9, 15)"
    pairs = [items.read(i) for i in range(0, len(items), max(1, len(items) // 12))]
    moves = (0, 0), (9, 15)
    return [np.mean([edge_contrast(image, np.roll(ids, by, (0, 1))) for image, ids in pairs]) for by in moves]


SAMPLES = {
    "cityscapes": ("samples/cityscapes", lambda: cityscapes("train", HOME/"samples", complete=False), 6, (1024, 2048)),
    "kitti": ("samples/kitti", lambda: kitti("train", HOME/"samples", complete=False), 5, (375, 1242)),
    "voc-colour": ("samples/voc-colour", lambda: folder("all", HOME/"samples"/"voc-colour", "voc", ".", ".",
                                                        ("_image", "_target"), coloured=True), 3, (513, 513)),
    "msrc train": ("msrc", lambda: msrc("train", HOME), 294, None),
    "msrc val": ("msrc", lambda: msrc("val", HOME), 102, None),
    "camvid": ("camvid/train", lambda: camvid("valid", HOME), 81, (360, 480))}


@pytest.mark.parametrize("name", [pytest.param(name, marks=real(row[0])) for name, row in SAMPLES.items()])
def test_true_samples_load_and_score_right(name):
    _, opened, count, size = SAMPLES[name]
    items = opened()
    assert len(items) == count and (size is None or {items.read(i)[1].shape for i in range(3)} == {size})
    assert perfect(items).miou() == 100 and np.nanmin(perfect(items).iou()) == 100


@pytest.mark.parametrize("name", [pytest.param(n, marks=real(row[0])) for n, row in SAMPLES.items() if n != "kitti"])
def test_labels_lie_on_the_edges_of_the_pictures(name):
    there, moved = on_edges(SAMPLES[name][1]())
    assert there > 1.15 * moved, (there, moved)


@real("samples/kitti")
def test_kitti_sample_is_a_stretched_crop():
    """The five pictures at hand are not KITTI's 1242 x 375 but its 1224 x 370 crop, stretched: up to 18 pixels beside
    their labels at the left. Put back (18 from the left, 5 from the top), both agree; the ids are right."""
    items = SAMPLES["kitti"][1]()
    pairs = [items.read(i) for i in range(5)]
    as_is = np.mean([edge_contrast(image, ids) for image, ids in pairs])
    back = np.mean([edge_contrast(cv2.resize(image, (1224, 370), interpolation=cv2.INTER_AREA),
                                  np.ascontiguousarray(ids[5:, 18:])) for image, ids in pairs])
    assert back > 1.2 * as_is, (back, as_is)


@real("samples/cityscapes")
def test_cityscapes_instances_hold_the_label_s_class():
    items = measured(cityscapes("train", HOME/"samples", complete=False), "instances")
    counts = []
    for i in range(len(items)):
        numbers = items.instances(i); thing = numbers > 0
        assert (class_of(numbers)[thing] == decode_file(items.labels[i])[thing]).all()
        counts.append(len(np.unique(numbers[thing])))
    assert counts == [13, 14, 9, 11, 25, 27]


@real("samples/cityscapes")
def test_our_score_is_the_official_one():
    "Each label moved by a few pixels as prediction: cityscapesscripts on stored ids, ours on training ids"
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    items, ours = cityscapes("train", HOME/"samples", complete=False), Confusion(19)
    matrix = official.generateMatrix(official.args)
    for i in range(2):
        stored, ids = decode_file(items.labels[i]), items.read(i)[1]
        moved = np.roll(stored, (3, 7), (0, 1))
        rows = np.stack([stored.ravel(), moved.ravel()])
        pairs, counts = np.unique(rows[0].astype(int) * 256 + rows[1], return_counts=True)
        for pair, n in zip(pairs.tolist(), counts.tolist()): matrix[pair // 256, pair % 256] += n
        ours.add(np.roll(ids, (3, 7), (0, 1)), ids)
    theirs = np.array([official.getIouScoreForLabel(s, matrix, official.args) for s in CITYSCAPES.stored_ids])
    np.testing.assert_allclose(ours.iou(), 100 * theirs, rtol=1e-12)
    assert 40 < ours.miou() < 99


@real("samples/voc-colour")
def test_voc_border_is_void_and_classes_are_named():
    items = SAMPLES["voc-colour"][1]()
    shown = {n: [VOC.foreground[k] for k in np.flatnonzero(items.tags(i))] for i, n in enumerate(items.names)}
    assert shown == {"1": ["aeroplane"], "23": ["sheep"], "114": ["bird"]}
    void = np.mean([(items.read(i)[1] == 255).mean() for i in range(3)])
    assert .02 < void < .05


@real("camvid/train")
def test_segnet_parts_of_the_true_names():
    for split, folder_name in (("all-train", "train"), ("clip", "val")):
        assert {segnet_part(name) for name in camvid(split, HOME).names} == {folder_name}


@real("msrc")
def test_msrc_tags():
    items = [msrc(split, HOME) for split in ("train", "val")]
    mean = np.mean([x.tags(i).sum() for x in items for i in range(len(x))])
    assert round(mean, 3) == 1.164 and items[0].space is MSRC
