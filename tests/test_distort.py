"""Distorted copies: every layout opens again and checks, a kill loses nothing, disk and loader say the same."""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hotseg.cli import main
from hotseg.commands.distort import add_haze, haze_of
from hotseg.core import HotsegError, embedded, read_json, write_json
from hotseg.data.check import check_root
from hotseg.data.copied import SetPictures, open_pictures
from hotseg.data.draw import FAR
from hotseg.data.layouts import open_items
from hotseg.data.loaders import DistortedPairs, pair_loaders
from hotseg.data.measured import measured
from hotseg.data.media import open_media, write_clip
from hotseg.data.photos import read_picture
from hotseg.data.pictures import write_picture
from hotseg.data.scenes import StreetScenes
from hotseg.data.sets import decode_file
from hotseg.data.splits import split_list
from hotseg.distort.sensor import TurbulenceSensor
from hotseg.distort.turbulence import LONG_LENS, Turbulence
from hotseg.distort.view import Motion, View
from hotseg.distort.warp import warp
from hotseg.distorted import DistortJob, distorted, drawn, read_flow, verify_copy
from hotseg.labels import ACDC, CAMVID, CAMVID32, CITYSCAPES, GTA5, KITTI, MSRC, VOC, decode

HAZE = Turbulence(1.5, 5., height=36)
STREETS = embedded("small/streets")


# A stand-in for every layout: two or three pictures, in the owners' folders and with their names

def picture(i):
    rows, columns = np.mgrid[:36, :48]
    return np.stack([(5 * rows + 40 * i) % 256, 5 * columns, 3 * (rows + columns)], -1).astype(np.uint8)


def ids(i, classes=3):
    label = np.zeros((36, 48), np.uint8)
    label[:14], label[18:28, 5 * i:5 * i + 14], label[-3:] = 1, classes - 1, 255
    return label


def save(path, pixels, colours=None):
    write_picture(path, pixels, colours)


def cityscapes(home):
    for i, name in enumerate(("lindau_000000_000019", "lindau_000001_000019")):
        def place(kind, end, name=name): return home/kind/"val"/"lindau"/f"{name}_{end}"
        save(place("leftImg8bit", "leftImg8bit.png"), picture(i))
        save(place("gtFine", "gtFine_labelIds.png"), decode(ids(i), CITYSCAPES))
        save(place("gtFine", "gtFine_labelTrainIds.png"), ids(i))
        save(place("gtFine", "gtFine_instanceIds.png"), decode(ids(i), CITYSCAPES).astype(np.uint16))
        Image.fromarray(np.dstack([picture(i), np.full((36, 48), 255, np.uint8)])).save(
            place("gtFine", "gtFine_color.png"))
        place("gtFine", "gtFine_polygons.json").write_text("{}")
        save(place("disparity", "disparity.png"), np.full((36, 48), 1500 + i, np.uint16))
        place("camera", "camera.json").parent.mkdir(parents=True, exist_ok=True)
        write_json(place("camera", "camera.json"), dict(extrinsic=dict(baseline=.2), intrinsic=dict(fx=100)))


def gta5(home):
    for i in range(3):
        save(home/"images"/f"{i + 1:05}.png", picture(i))
        save(home/"labels"/f"{i + 1:05}.png", decode(ids(i), GTA5), np.arange(768).reshape(256, 3) % 251)
    (home/"train.txt").write_text("00001.png\n00003.png\n")


def acdc(home):
    for i, condition in enumerate(("fog", "night", "rain", "snow")):
        name = f"GOPR{475 + i:04}_frame_000041"
        save(home/"rgb_anon"/condition/"val"/name[:8]/f"{name}_rgb_anon.png", picture(i))
        for kind, pixels in dict(labelTrainIds=ids(i), labelIds=decode(ids(i), ACDC)).items():
            save(home/"gt"/condition/"val"/name[:8]/f"{name}_gt_{kind}.png", pixels)


def kitti(home):
    for i in range(2):
        save(home/"training"/"image_2"/f"00000{i}_10.png", picture(i))
        save(home/"training"/"semantic"/f"00000{i}_10.png", decode(ids(i), KITTI))
        save(home/"training"/"instance"/f"00000{i}_10.png", decode(ids(i), KITTI).astype(np.uint16) * 256)


def listed(home, space):
    for i, name in enumerate(("2007_000032", "né 3")):
        save(home/"JPEGImages"/f"{name}.jpg", picture(i))
        for kind in ("SegmentationClass", "SegmentationObject"): save(home/kind/f"{name}.png", ids(i), space.colour_lut)
    (home/"ImageSets"/"Segmentation").mkdir(parents=True)
    (home/"ImageSets"/"Segmentation"/"val.txt").write_text("2007_000032\nné 3\n", encoding="utf8")


def voc(home): listed(home, VOC)


def msrc(home): listed(home, MSRC)


def camvid(home):
    for i, name in enumerate(split_list("camvid", "train")[:2]):
        save(home/"train"/f"{name}.png", picture(i))
        save(home/"trainannot"/f"{name}.png", np.where(ids(i) == 255, 11, ids(i)).astype(np.uint8))
    for i in range(2):
        save(home/"val"/f"0016E5_{7959 + 2 * i:05}.jpg", picture(i + 2))
        save(home/"valannot"/f"0016E5_{7959 + 2 * i:05}.png", np.where(ids(i) == 255, 11, ids(i)).astype(np.uint8))


def camvid_full(home):
    for i, name in enumerate(split_list("camvid", "train")[:2]):
        save(home/"701_StillsRaw_full"/f"{name}.png", picture(i))
        save(home/"LabeledApproved_full"/f"{name}_L.png", CAMVID32.colour_lut[ids(i)])


def folder(home):
    for i in range(3):
        save(home/"images"/f"a{i}_photo.png", picture(i))
        save(home/"labels"/f"a{i}_ids.png", np.where(ids(i) == 255, 11, ids(i)).astype(np.uint8))
    (home/"test.txt").write_text("a0_photo.png\na2_photo.png\n")


SETS = {"cityscapes/val": (cityscapes, 2), "gta5/train": (gta5, 2), "gta5/all": (gta5, 3), "acdc/val": (acdc, 4),
        "acdc/night/val": (acdc, 1), "kitti/train": (kitti, 2), "voc/val": (voc, 2), "msrc/val": (msrc, 2),
        "camvid/clip": (camvid, 2), "camvid/train,clip": (camvid, 4), "camvid_full/all": (camvid_full, 2),
        "folder/test": (folder, 2)}
OWN = {"folder/test": dict(space="camvid", endings=("_photo", "_ids"))}


def source(what, home):
    "Write the stand-in, open it as `hotseg distort` does"
    SETS[what][0](home)
    return SetPictures(what, home, complete=False, **OWN.get(what, {}))


def tree(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def made(root):
    "All files of a copy but those that tell of the work"
    return {name: data for name, data in tree(root).items() if name not in ("distortion.json", ".lock")}


def job(media, out, haze=HAZE, what="a set", **more): return DistortJob(haze, media, out, what, **more)


@pytest.mark.parametrize("what", SETS)
def test_every_layout_opens_again(tmp_path, what):
    "Held to its count, checked, pictures distorted, labels byte by byte"
    media = source(what, tmp_path/"in")
    told = job(media, tmp_path/"out").run()
    assert (told["status"], told["pictures"]) == ("done", SETS[what][1])
    layout, _, splits = what.partition("/")
    for split in splits.split(","):
        before, after = media.parts[split], open_items(f"{layout}/{split}", tmp_path/"out", **OWN.get(what, {}))
        assert (after.names, after.space.name) == (before.names, before.space.name)
        for i, name in enumerate(after.names):
            image, label = after.read(i)
            assert np.array_equal(label, before.read(i)[1])
            assert np.array_equal(image, distorted(media.read(name), name, HAZE))
    report = check_root(tmp_path/"out", layout, **OWN.get(what, {}))
    assert report.ok and sum(p.read for p in report.parts.values()) == SETS[what][1], str(report)
    was, now, shown = tree(tmp_path/"in"), made(tmp_path/"out"), set(map(media.place, media.names))
    assert all(now[name] == was[name] for name in now.keys() - shown - {"hotseg.json"})
    assert not any(name.endswith(".jpg") for name in now) and verify_copy(tmp_path/"out")["files"] == list(media.names)
    if "JPEG" in str(media.files) or what == "camvid/clip": assert told["source_formats"] == {".jpg": 2}


@pytest.mark.parametrize("what", SETS)
def test_labels_move_with_the_pixels(tmp_path, what):
    "Every map beside a picture is its source, moved by the picture's own flow; ids, palettes and depth of bits stay"
    media = source(what, tmp_path/"in")
    told = job(media, tmp_path/"out", labels="warped").run()
    layout, _, splits = what.partition("/")
    after = {n: (items, i) for items in (open_items(f"{layout}/{s}", tmp_path/"out", **OWN.get(what, {}))
                                         for s in splits.split(",")) for i, n in enumerate(items.names)}
    before = {n: (items, i) for items in media.parts.values() for i, n in enumerate(items.names)}
    for name, (items, i) in after.items():
        sample = drawn(HAZE, 36, 48, name)
        inner, at = before[name]
        moved = sample.labels_warped(torch.from_numpy(inner.read(at)[1])[None], 255)[0].numpy()
        assert np.array_equal(items.read(i)[1], moved) and (moved == 255).any()
        for file in media.beside(name):
            there = tmp_path/"out"/file.place
            if file.fill is None: assert there.is_file() == (file.role == "about")
            else:
                old, new = decode_file(file.path), decode_file(there)
                assert (old.shape, old.dtype) == (new.shape, new.dtype)
                with Image.open(file.path) as a, Image.open(there) as b:
                    assert (a.mode, a.getpalette()) == (b.mode, b.getpalette())
    assert check_root(tmp_path/"out", layout, **OWN.get(what, {})).ok
    assert told["left_out"] == (["*_gtFine_polygons.json"] if layout == "cityscapes" else [])


def test_without_labels(tmp_path):
    media = source("cityscapes/val", tmp_path/"in")
    told = job(media, tmp_path/"out", labels="none").run()
    tops = {Path(name).parts[0] for name in made(tmp_path/"out")}
    assert tops == {"leftImg8bit", "disparity", "camera", "hotseg.json"}
    assert "*_gtFine_labelIds.png" in told["left_out"]
    report = check_root(tmp_path/"out", "cityscapes")
    assert report.ok and report.parts["val"].read == 2, str(report)
    (tmp_path/"out"/media.place(media.names[0])).unlink()
    assert not check_root(tmp_path/"out", "cityscapes").ok
    with pytest.raises(HotsegError, match="no such labels"): job(media, tmp_path/"x", labels="moved")
    for what in ("voc/val", "gta5/train", "camvid/train,clip"):
        out = tmp_path/what.replace("/", "-")
        job(source(what, out/"in"), out/"out", labels="none").run()
        report = check_root(out/"out", what.partition("/")[0])
        assert report.ok and sum(p.read for p in report.parts.values()) == SETS[what][1], str(report)


def test_parts_without_labels(tmp_path):
    "VOC's and KITTI's test parts: opened as they were, though a reader looks for folders that they do not have"
    voc(tmp_path/"voc")
    lists = tmp_path/"voc"/"ImageSets"/"Segmentation"
    (lists/"val.txt").rename(lists/"test.txt")
    for i in range(2): save(tmp_path/"kitti"/"testing"/"image_2"/f"00000{i}_10.png", picture(i))
    (tmp_path/"kitti"/"training").mkdir()
    for layout in ("voc", "kitti"):
        media = SetPictures(f"{layout}/test", tmp_path/layout, complete=False)
        assert job(media, tmp_path/"out"/layout).run()["status"] == "done"
        again = open_items(f"{layout}/test", tmp_path/"out"/layout, complete=False)
        assert again.names == media.names and (again.read(1)[1] == 255).all()


def test_one_name_for_two_pictures(tmp_path):
    kitti(tmp_path)
    for i in range(2): save(tmp_path/"testing"/"image_2"/f"00000{i}_10.png", picture(i + 4))
    with pytest.raises(HotsegError, match="one by one"): SetPictures("kitti/train,test", tmp_path, complete=False)


# Killed, shared, refused

RUN = """
import sys, time
from hotseg.data.copied import open_pictures
from hotseg.distort.turbulence import Turbulence
from hotseg.distorted import DistortJob
import hotseg.distorted as d
what, root, out = sys.argv[1:]
inner = d.write_picture
def slow(*a):
    inner(*a)
    print('one', flush=True)
    time.sleep(.05)
d.write_picture = slow
DistortJob(Turbulence(1.5, 5., height=36), open_pictures(what, root or None), out, what, flow=True).run()
"""


def killed(after, *words):
    "A writer that gets SIGKILL after so many files"
    writer = subprocess.Popen([sys.executable, "-c", RUN, *map(str, words)], stdout=subprocess.PIPE)
    for _ in range(after): assert writer.stdout.readline().strip() == b"one"
    writer.send_signal(signal.SIGKILL)
    writer.wait()


def test_a_killed_copy_goes_on(tmp_path):
    "kill -9 in the middle: the reader refuses what is there; the same request, and two processes, make the same set"
    def whole(out, **more):
        media = SetPictures("cityscapes/train", STREETS)
        return DistortJob(HAZE, media, out, "cityscapes/train", flow=True, **more).run()
    killed(3, "cityscapes/train", STREETS, tmp_path/"out")
    with pytest.raises(HotsegError, match="not written to its end"): open_items("cityscapes/train", tmp_path/"out")
    there = {p: p.stat().st_mtime_ns for p in (tmp_path/"out"/"leftImg8bit").rglob("*.png")}
    assert 0 < len(there) < 4
    whole(tmp_path/"out")
    whole(tmp_path/"once", workers=2)
    assert made(tmp_path/"out") == made(tmp_path/"once") and len(made(tmp_path/"once")) == 4 * 7 + 1
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())
    assert len(open_items("cityscapes/train", tmp_path/"out")) == 4


def workers_of(pid):
    "Processes that a process has started to share its work"
    told = {int(p.parent.name): p.read_text().rpartition(")")[2].split() for p in Path("/proc").glob("[0-9]*/stat")}
    return [child for child, stat in told.items() if int(stat[1]) == pid and b"spawn_main" in
            Path(f"/proc/{child}/cmdline").read_bytes()]


def sharing(tmp_path, count=60):
    "The verb at work with two processes, a few pictures done"
    for i in range(count): save(tmp_path/"in"/f"{i:02}.png", np.kron(picture(i), np.ones((12, 12, 1), np.uint8)))
    words = [sys.executable, "-m", "hotseg.cli", "distort", str(tmp_path/"in"), str(tmp_path/"out"), "--workers", "2"]
    parent = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
    until(lambda: len(list((tmp_path/"out").glob("*.png"))) >= 2)
    return words, parent, workers_of(parent.pid)


def until(true, seconds=60):
    "Wait for something"
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(.02)


def gone(pid): return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_its_parent(tmp_path, how):
    "Killed, or Ctrl-C as a terminal sends it, to all: pipes close, the folder goes on; 130 where there is a last word"
    words, parent, workers = sharing(tmp_path)
    assert len(workers) == 2
    (os.killpg if how == signal.SIGINT else os.kill)(parent.pid, how)
    _, err = parent.communicate(timeout=20)
    until(lambda: all(map(gone, workers)), 5)
    if how != signal.SIGKILL: assert parent.returncode == 130 and b"goes on" in err and b"Traceback" not in err, err
    done = {p: p.stat().st_mtime_ns for p in (tmp_path/"out").glob("*.png")}
    assert 2 <= len(done) < 60
    assert not subprocess.run(words, stderr=subprocess.DEVNULL).returncode
    assert read_json(tmp_path/"out"/"distortion.json")["status"] == "done" and len(made(tmp_path/"out")) == 60
    assert all(p.stat().st_mtime_ns == t for p, t in done.items())


def pan(path, frames=6):
    "A clip of a still camera"
    still = read_picture(next((STREETS/"leftImg8bit").rglob("*.png")))[:64, :96]
    write_clip(path, [still] * frames, 10)
    return path


def test_a_killed_clip_goes_on(tmp_path):
    "From frame k, with the haze that frame k would have had"
    pan(tmp_path/"pan.mp4")
    killed(5, tmp_path/"pan.mp4", "", tmp_path/"out")  # two files a frame
    assert len(list((tmp_path/"out").glob("*.png"))) in (2, 3)
    for out in ("out", "once"):
        source = str(tmp_path/"pan.mp4")
        assert DistortJob(HAZE, open_media(source), tmp_path/out, source, flow=True).run()["status"] == "done"
    assert made(tmp_path/"out") == made(tmp_path/"once")


AIRS = {"elastic": HAZE, "technion": Turbulence(1., model="technion", height=360),
        "aperture": Turbulence(1., model="aperture", modes=10, height=360),
        "sensor": replace(HAZE, sensor=TurbulenceSensor(noise=4., bits=8, jpeg=80)),
        "scaled": replace(HAZE, depth="scaled", reference_m=50.),
        "slabs": replace(HAZE, depth="slabs", slabs=3, reference_m=50.)}


@pytest.mark.parametrize("air", AIRS)
def test_disk_and_loader_say_the_same(tmp_path, air):
    "For every kind of haze"
    job(SetPictures("cityscapes/val", STREETS), tmp_path/"out", AIRS[air]).run()
    items, copy = open_items("cityscapes/val", STREETS), open_items("cityscapes/val", tmp_path/"out")
    pairs = DistortedPairs(measured(items, "depth") if AIRS[air].depth != "none" else items, AIRS[air], seed=7)
    for i in range(len(items)):
        light = pairs[i][0].permute(1, 2, 0).numpy()
        assert np.abs(copy.read(i)[0] / 255 - light.clip(0, 1)).max() <= .5 / 255 + 1e-5
        assert np.abs(light - items.read(i)[0] / 255).max() > .05


@pytest.mark.parametrize("inner, said", [("", "over its input"), ("leftImg8bit/hazy", "inside its input"),
                                         ("hazy", "inside its input"), ("gtFine/val/x", "inside its input")])
def test_never_over_its_source(tmp_path, inner, said):
    media = source("cityscapes/val", tmp_path/"in")
    before = tree(tmp_path)
    with pytest.raises(HotsegError, match=said): job(media, tmp_path/"in"/inner)
    with pytest.raises(HotsegError, match="over its input"): job(media, tmp_path)
    assert tree(tmp_path) == before


def test_labels_on_another_disk_are_safe_too(tmp_path):
    cityscapes(tmp_path/"in")
    (tmp_path/"in"/"gtFine").rename(tmp_path/"disk")
    (tmp_path/"in"/"gtFine").symlink_to(tmp_path/"disk")
    media = SetPictures("cityscapes/val", tmp_path/"in", complete=False)
    with pytest.raises(HotsegError, match="over its input"): job(media, tmp_path/"disk")


@pytest.mark.parametrize("more", [dict(haze=Turbulence(1., 5., height=36)), dict(labels="warped"), dict(flow=True),
                                  dict(seed=1), dict(what="another")], ids=lambda d: next(iter(d)))
def test_two_requests_do_not_mix(tmp_path, more):
    media = source("kitti/train", tmp_path/"in")
    job(media, tmp_path/"out").run(limit=1)
    before = tree(tmp_path/"out")
    with pytest.raises(HotsegError, match="differs in"): job(media, tmp_path/"out", **more)
    assert tree(tmp_path/"out") == before


def test_a_change_beside_a_picture_is_noticed(tmp_path):
    media = source("cityscapes/val", tmp_path/"in")
    job(media, tmp_path/"out").run(limit=1)
    write_picture(media.beside(media.names[0])[-2].path, np.zeros((36, 48), np.uint16))
    with pytest.raises(HotsegError, match="differs in: identity"):
        job(SetPictures("cityscapes/val", tmp_path/"in", complete=False), tmp_path/"out")


# Sequences

def frames(out, haze, source, **more):
    told = DistortJob(haze, open_media(source), out, str(source), **more).run()
    return [read_picture(out/f"{name}.png").astype(int) for name in told["files"]]


def test_a_clip_does_not_flicker(tmp_path):
    "Neighbouring frames are alike, distant ones are not; without motion all are the same"
    moving = replace(HAZE, motion=Motion(frame_s=.1, boiling_s=3.))
    seen = frames(tmp_path/"out", moving, pan(tmp_path/"pan.mp4", 12))
    still = [f.astype(int) for _, f in open_media(tmp_path/"pan.mp4")]
    haze = [a - b for a, b in zip(seen, still)]
    def apart(step): return np.mean([np.abs(a - b).mean() for a, b in zip(haze, haze[step:])])
    assert apart(1) < .6 * apart(11)
    frozen = frames(tmp_path/"frozen", HAZE, tmp_path/"pan.mp4")
    assert max(np.abs((a - b) - (frozen[0] - still[0])).mean() for a, b in zip(frozen, still)) < 2
    assert open_media(tmp_path/"out"/"distorted.mp4").fps == 10


def test_a_longer_sequence_begins_alike(tmp_path):
    "Folders of frames: one camera each; more frames change nothing before them; singles are not a sequence"
    moving = replace(HAZE, motion=Motion(wind_px_s=(30., 0.)))
    for town in ("a", "b"):
        for i in range(4): save(tmp_path/"in"/town/f"{i}.png", picture(0))
    frames(tmp_path/"long", moving, tmp_path/"in", sequence=True)
    for town in ("a", "b"): (tmp_path/"in"/town/"3.png").unlink()
    frames(tmp_path/"short", moving, tmp_path/"in", sequence=True, workers=2)
    frames(tmp_path/"single", moving, tmp_path/"in")
    long, short, single = (made(tmp_path/out) for out in ("long", "short", "single"))
    assert len(short) == 6 and all(long[name] == data for name, data in short.items())
    assert short["a/0.png"] != short["b/0.png"] and len(set(short.values())) == 6
    assert single["a/1.png"] != short["a/1.png"]


def test_a_sequence_has_one_size(tmp_path):
    save(tmp_path/"in"/"0.png", picture(0))
    save(tmp_path/"in"/"1.png", picture(1)[:20])
    told = DistortJob(HAZE, open_media(tmp_path/"in"), tmp_path/"out", "in", sequence=True).run()
    assert told["status"] == "incomplete" and "another size" in told["failed"]["1"]


# The truth beside the pictures

def test_the_flow_made_the_picture(tmp_path):
    media = source("kitti/train", tmp_path/"in")
    job(media, tmp_path/"out", flow=True).run()
    for name in media.names:
        flow, valid = read_flow(tmp_path/"out"/"flow"/media.place(name))
        light = torch.from_numpy(media.read(name)).permute(2, 0, 1)[None] / 255
        shown = torch.from_numpy(read_picture(tmp_path/"out"/media.place(name))).permute(2, 0, 1) / 255
        assert (warp(light, flow[None])[0] - shown).abs().mean() < 1 / 255
        assert .5 < valid.float().mean() < 1 and torch.equal(valid, drawn(HAZE, 36, 48, name).valid("distorted")[0])
    with pytest.raises(HotsegError, match="not a flow"): read_flow(tmp_path/"out"/media.place(name))


def test_depth_from_files(tmp_path):
    "The data set's disparity, or one's own maps; where there is none the error says what to give"
    far = AIRS["scaled"]
    media = source("cityscapes/val", tmp_path/"in")
    job(media, tmp_path/"set", far).run()
    for name in media.names:
        path = tmp_path/"maps"/name
        path.parent.mkdir(exist_ok=True)
        metres = media.depth(name)
        assert metres.max() < FAR
        np.save(path.with_suffix(".npy"), metres)
    job(media, tmp_path/"npy", far, depth=tmp_path/"maps").run()
    assert made(tmp_path/"set") == made(tmp_path/"npy")
    flat = source("kitti/train", tmp_path/"kitti")
    with pytest.raises(HotsegError, match="a folder of depth maps"): job(flat, tmp_path/"x", far)
    with pytest.raises(HotsegError, match="--depth-m"):
        job(open_media(tmp_path/"kitti"/"training"/"image_2"), tmp_path/"z", far)
    with pytest.raises(HotsegError, match="without a depth map"): job(flat, tmp_path/"y", far, depth=tmp_path/"maps")


def test_haze_by_distance_in_the_loader():
    "Depth is mirrored with the picture; items without it are refused; it is not handed out unless it was a map"
    scenes, far = StreetScenes(4, height=48, width=96), AIRS["scaled"]
    pairs = DistortedPairs(scenes, far, fresh=True)
    for i in range(4):
        hazy, clean, label = pairs[i]
        mirrored = not torch.equal((clean.permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(scenes.read(i)[0]))
        depth = scenes.depth(i)[:, ::-1].copy() if mirrored else scenes.depth(i)
        assert torch.equal(hazy, far.apply(clean[None], pairs.sample((48, 96), i, 0, depth))[0])
    class Bare:
        names, split, space = scenes.names, scenes.split, scenes.space
        def __len__(self): return 4
        def read(self, i): return scenes.read(i)
    with pytest.raises(HotsegError, match="depth of every pixel"): DistortedPairs(Bare(), far)[0]
    batch = next(iter(pair_loaders(scenes, scenes, far, 2, device="cpu", targets=("flow", "valid")).valid))
    assert [part.dtype for part in batch] == [torch.float32] * 3 + [torch.bool, torch.int64]
    assert torch.equal(warp(batch[1], batch[2]), batch[0])


# What the command line takes

def asked(words, **more):
    parser = argparse.ArgumentParser()
    add_haze(parser)
    return haze_of(parser.parse_args(words.split()), **more)


@pytest.mark.parametrize("words, flag, unit", [
    ("--strength-px -1", "--strength-px", "pixels rms per axis"), ("--strength-px nan", "--strength-px", "pixels rms"),
    ("--correlation-px 0", "--correlation-px", "pixels"), ("--blur-px -1", "--blur-px", "pixels"),
    ("--rows 0", "--rows", "1 or more"),
    ("--model technion --cn2 -1", "--cn2", "m^(-2/3)"), ("--model aperture --r0-m 0", "--r0-m", "m"),
    ("--model aperture --d-over-r0 -2", "--d-over-r0", "apertures over r0"),
    ("--model technion --aperture-m 0", "--aperture-m", "m,"), ("--model technion --focal-px 0", "--focal-px", "px,"),
    ("--model technion --distance-m -5", "--distance-m", "m,"),
    ("--model technion --outer-scale-m 0", "--outer-scale-m", "m, or inf"),
    ("--model technion --wavelength-m 1", "--wavelength-m", "at most 0.0001"),
    ("--boiling-s 0", "--boiling-s", "s, or inf"),
    ("--wind-px-s inf,0", "--wind-px-s", "right"), ("--fps 0", "--fps", "frames a second"),
    ("--noise -1", "--noise", "grey levels"), ("--gain 0", "--gain", "factor"), ("--bits 0", "--bits", "1..16"),
    ("--jpeg 101", "--jpeg", "1..100"), ("--depth scaled --reference-m 0", "--reference-m", "m,"),
    ("--depth slabs --slabs 99 --reference-m 9", "--slabs", "at most 32"), ("--layers 3", "--layers", "aperture"),
    ("--depth scaled", "--reference-m", "--distance-m"), ("--cn2 1e-14 --r0-m .1", "'--cn2', '--r0-m'", "exactly one"),
    ("--cn2 1e-14", "--cn2", "pixels rms"), ("--model technion --correlation-px 4", "--correlation-px", "elastic"),
    ("--preset published --model elastic", "--strength-px", "--cn2"), ("--preset 9/9", "2/10", "published")])
def test_bad_values_name_flag_and_unit(words, flag, unit):
    with pytest.raises(HotsegError) as error: asked(words, fps=25.)
    said = str(error.value)
    assert flag in said and unit in said, said
    assert not re.search(r"(?<!-)\b(\w+_(px|m|s|over_r0)\b|Turbulence|View|Motion|sensor:|theory)", said), said


@pytest.mark.parametrize("words, wanted", [
    ("--aperture-m .1", "--model technion"), ("--wave plane", "--model technion"), ("--distance-m 9", "--depth"),
    ("--reference-m 9", "--depth scaled"), ("--slabs 3", "--depth slabs"), ("--fps 5", "--sequence"),
    ("--preset technion-1px --model elastic --focal-px 9", "--model technion"),
    ("--model technion --depth scaled --reference-m 9", "--distance-m"), ("--wind-px-s 3,0", "a clip"),
    ("--boiling-s 1", "a clip"), ("--model technion --inner-scale-m .01", "--model aperture")])
def test_a_word_without_effect_is_refused(words, wanted):
    with pytest.raises(HotsegError, match="no effect here") as error: asked(words)
    assert wanted in str(error.value)


def test_what_is_not_said_stays():
    assert asked("") == Turbulence(2., 4., height=360)
    assert asked("--preset 2/10 --blur-px 1") == Turbulence(2., 10., blur_px=1., height=360)
    assert asked("--preset published --distance-m 5000").view == View(distance_m=5000.)
    assert asked("--preset technion-1px --r0-m .02").strength_px is None
    assert asked("--preset 2/4 --model technion").correlation_px is None
    assert asked("--preset technion-1px --model elastic") == Turbulence(1., 4., height=360)
    assert asked("--preset technion-1px --outer-scale-m 3").view == replace(LONG_LENS, outer_scale_m=3.)
    assert asked("--preset aperture-1px").layers == 4 and asked("--preset aperture-1px --layers 2").layers == 2
    assert asked("--model aperture --modes 10").modes == 10
    assert asked("--depth slabs --reference-m 9 --slabs 3").slabs == 3
    assert asked("", fps=10.).motion == Motion(frame_s=.1, boiling_s=.1)
    assert asked("--wind-px-s=-3,0 --fps 5", fps=10.).motion == Motion(frame_s=.2, wind_px_s=(-3., 0.))


def failing(words, said, capsys):
    with pytest.raises(SystemExit) as end: main(["distort", *map(str, words)])
    err = capsys.readouterr().err
    assert end.value.code == 2 and said in err, err


def test_words_that_do_nothing_with_these_pictures(tmp_path, capsys):
    save(tmp_path/"in"/"0.png", picture(0))
    for words, said in ((["--labels", "clean"], "--labels has no effect"),
                        (["--root", tmp_path], "--root has no effect"),
                        (["--sequence", "--workers", 2], "--workers has no effect"), (["--limit", 0], "0 pictures"),
                        (["--depth-m", tmp_path], "play no part"), (["-o", "complete=no"], "true or false")):
        failing([tmp_path/"in", tmp_path/"out", *words], said, capsys)
    assert not (tmp_path/"out").exists()


def test_a_dry_run_tells_in_words(tmp_path, capsys):
    "Also into a folder that would be refused"
    save(tmp_path/"in"/"0.png", picture(0))
    (tmp_path/"in"/"00.png").write_bytes(b"no picture")
    (tmp_path/"out").mkdir()
    (tmp_path/"out"/"note").write_text("keep")
    before = tree(tmp_path)
    assert not main(["distort", str(tmp_path/"in"), str(tmp_path/"out"), "--dry-run", "--sequence", "--jpeg", "80"])
    told = capsys.readouterr()
    assert "elastic haze, 2 px rms" in told.out and "25 frames a second" in told.out and "jpeg 80" in told.out
    assert "how far pixels move, px rms" in told.out and "this would be refused" in told.err
    assert tree(tmp_path) == before


def test_a_damaged_picture_costs_only_itself(tmp_path, capsys):
    "Damaged, or of 16 bits in one channel: named, the others are written, exit code 1; a mended one is taken up"
    for i in range(3): save(tmp_path/"in"/f"{i}.png", picture(i))
    (tmp_path/"in"/"0.png").write_bytes((tmp_path/"in"/"0.png").read_bytes()[:200])
    (tmp_path/"in"/"9.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as end: main(["distort", str(tmp_path/"in"), str(tmp_path/"out")])
    assert end.value.code == 1 and "0: " in capsys.readouterr().err
    told = read_json(tmp_path/"out"/"distortion.json")
    assert (told["status"], told["files"], [*told["failed"]]) == ("incomplete", ["1", "2"], ["0", "9"])
    for i in (0, 9): save(tmp_path/"in"/f"{i}.png", picture(i))
    assert not main(["distort", str(tmp_path/"in"), str(tmp_path/"out")])
    assert sorted(made(tmp_path/"out")) == ["0.png", "1.png", "2.png", "9.png"]


def test_no_flow_among_pictures(tmp_path):
    "A source with a folder `flow`: nothing is lost; without --flow it is a folder like any other"
    for name in ("a", "flow/a"): save(tmp_path/"in"/f"{name}.png", picture(len(name)))
    media = open_pictures(tmp_path/"in")
    with pytest.raises(HotsegError, match="leave out --flow"): job(media, tmp_path/"x", flow=True)
    told = job(media, tmp_path/"out").run()
    assert sorted(made(tmp_path/"out")) == ["a.png", "flow/a.png"] and [*told["kinds"]] == ["distorted"]


def test_what_the_manifest_says_of_its_files(tmp_path):
    told = job(source("gta5/train", tmp_path/"in"), tmp_path/"out", flow=True).run()
    assert "clean(p + flow(p))" in told["kinds"]["flow"] and [*told["kinds"]] == ["distorted", "flow"]


def test_a_limited_set_says_that_it_is_not_whole(tmp_path, capsys):
    words = ["distort", "cityscapes/val", str(tmp_path/"out"), "--root", str(STREETS)]
    assert not main([*words, "--limit", "1"]) and "readers refuse it" in capsys.readouterr().err
    assert not main(words) and "refuse" not in capsys.readouterr().err


def test_the_verb_writes_a_set(tmp_path, capsys):
    "In its layout; `hotseg data check` finds nothing wrong; a dry run writes nothing"
    words = ["distort", "cityscapes/train,val", str(tmp_path/"out"), "--root", str(STREETS), "--model", "technion",
             "--strength-px", "3", "--labels", "warped", "--json"]
    assert not main([*words, "--dry-run"])
    told = json.loads(capsys.readouterr().out)
    assert (told["pictures"], told["rows"]) == (6, 128) and not (tmp_path/"out").exists()
    assert told["derived"]["tilt_px"] == 3 and told["derived_at_rows"]["tilt_px"] == pytest.approx(3 * 128 / 360)
    assert not main(words)
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told["derived"]["r0_m"] > 0 and told["request"]["distortion"]["model"] == "technion" and told["versions"]
    assert not main(["data", "check", str(tmp_path/"out"), "--layout", "cityscapes"])
    assert len(told["sha256"]) == 6 * 6 and verify_copy(tmp_path/"out")


def test_the_verb_makes_a_clip_of_moving_air(tmp_path, capsys):
    assert not main(["distort", str(pan(tmp_path/"pan.mp4")), str(tmp_path/"out"), "--json"])
    motion = json.loads(capsys.readouterr().out)["request"]["distortion"]["motion"]
    assert (motion["frame_s"], motion["boiling_s"]) == (.1, .1)


def test_a_copy_that_lost_a_file(tmp_path):
    media = source("voc/val", tmp_path/"in")
    job(media, tmp_path/"out").run()
    next((tmp_path/"out"/"JPEGImages").iterdir()).unlink()
    with pytest.raises(HotsegError, match="JPEGImages"): verify_copy(tmp_path/"out")
    assert job(media, tmp_path/"out").run()["status"] == "done" and verify_copy(tmp_path/"out")
