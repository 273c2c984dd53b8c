"""Generated scenes on disk: a kill loses nothing, processes change nothing, nothing is overwritten."""
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from hotseg.core import HotsegError, embedded
from hotseg.data.check import check_root
from hotseg.data.layouts import READERS
from hotseg.data.measured import measured
from hotseg.data.objects import ObjectScenes
from hotseg.data.scenes import StreetScenes
from hotseg.data.written import SMALL, Request, small, verify_written, write_scenes

STREETS = Request("cityscapes", (("train", 6), ("val", 2)), "camera", 3, 64, 128)


def files(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")/"set"
    write_scenes(root, STREETS)
    return root


def test_processes_change_nothing(whole, tmp_path):
    write_scenes(tmp_path/"set", STREETS, workers=2)
    assert files(tmp_path/"set") == files(whole)


def test_a_killed_writer_loses_nothing(whole, tmp_path):
    "kill -9 in the middle; no half file counts, the second call makes the same set"
    root = tmp_path/"set"
    code = ("from pathlib import Path; from hotseg.data.written import Request, write_scenes; import sys, time\n"
            "import hotseg.data.written as w\n"
            "inner = w._write_one\n"
            "def slow(*a): inner(*a); print('one', flush=True); time.sleep(.2)\n"
            "w._write_one = slow\n"
            "asked = Request('cityscapes', (('train', 6), ('val', 2)), 'camera', 3, 64, 128)\n"
            "write_scenes(Path(sys.argv[1]), asked)\n")
    writer = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    for _ in range(3): assert writer.stdout.readline().strip() == b"one"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert (root/"hotseg.part.json").is_file() and not (root/"hotseg.json").exists()
    with pytest.raises(HotsegError, match="not written to its end"): READERS["cityscapes"]("train", root)
    kept = {p: p.stat().st_mtime_ns for p in root.rglob("*_labelIds.png")}
    assert 3 <= len(kept) < 8
    write_scenes(root, STREETS)
    assert files(root) == files(whole)
    assert sum(p.stat().st_mtime_ns == t for p, t in kept.items()) >= 3


def test_a_finished_set_is_left_alone(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    assert write_scenes(whole, STREETS)["counts"] == {"train": 6, "val": 2}
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before


@pytest.mark.parametrize("field, value", [("look", "game"), ("seed", 4), ("height", 96), ("counts", (("train", 6),)),
                                          ("layout", "gta5")])
def test_another_request_is_refused(whole, field, value):
    other = Request(**{**STREETS.__dict__, field: value})
    with pytest.raises(HotsegError, match="another set"): write_scenes(whole, other)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path/"set").write_text("a file")
    with pytest.raises(HotsegError, match="not empty"): write_scenes(tmp_path/"set", STREETS)
    assert (tmp_path/"set").read_text() == "a file"


@pytest.mark.parametrize("wrong", [dict(height=16), dict(width=10**5), dict(layout="coco"), dict(look="plain"),
                                   dict(counts=()), dict(counts=(("train", -1),))])
def test_impossible_requests(wrong):
    with pytest.raises(HotsegError): Request(**{**STREETS.__dict__, **wrong})


def test_what_is_read_is_what_was_drawn(whole):
    items, drawn = READERS["cityscapes"]("val", whole), StreetScenes(2, 3, "val", 64, 128)
    for i in range(2):
        for read, made in zip(items.read(i), drawn.read(i)): np.testing.assert_array_equal(read, made)


def test_both_label_images_say_the_same(whole):
    ids, train = (READERS["cityscapes"]("train", whole, labels=kind) for kind in ("labelIds", "labelTrainIds"))
    for i in range(len(ids)): np.testing.assert_array_equal(ids.read(i)[1], train.read(i)[1])


def test_instances_and_depth_come_back(whole):
    items = measured(READERS["cityscapes"]("train", whole), "instances", "depth")
    drawn = StreetScenes(6, 3, "train", 64, 128)
    for i in range(6):
        scene, things = drawn.scene(i), items.instances(i)
        for thing in np.unique(scene.instances[scene.instances > 0]):
            assert len(np.unique(things[scene.instances == thing])) == 1
        assert len(np.unique(things)) == len(np.unique(scene.instances))
        known = items.known(i)
        disparity_error = abs(1 / items.depth(i)[known] - 1 / scene.depth[known])
        assert known.mean() > .3 and disparity_error.max() < 1e-3


def test_check_finds_a_written_set_sound(whole):
    report = check_root(whole, "cityscapes", workers=0)
    assert report.ok and report.parts["train"].items == 6


def test_verify_notices_a_changed_label(tmp_path):
    write_scenes(tmp_path/"set", STREETS)
    verify_written(tmp_path/"set")
    one, two = sorted((tmp_path/"set").rglob("*_gtFine_labelIds.png"))[:2]
    one.write_bytes(two.read_bytes())
    with pytest.raises(HotsegError, match="not those that were written"): verify_written(tmp_path/"set")


def test_a_finished_set_that_lost_a_file_is_not_finished(tmp_path):
    write_scenes(tmp_path/"set", STREETS)
    next((tmp_path/"set"/"disparity").rglob("*.png")).unlink()
    with pytest.raises(HotsegError, match="no longer whole"): write_scenes(tmp_path/"set", STREETS)


@pytest.mark.parametrize("kind, ending", [("gtFine", "instanceIds.png"), ("disparity", "disparity.png"),
                                          ("camera", "camera.json")])
def test_check_looks_at_what_lies_beside(tmp_path, kind, ending):
    write_scenes(tmp_path/"set", STREETS)
    one = sorted((tmp_path/"set"/kind).rglob(f"*{ending}"))[1]
    one.write_bytes(b"junk")
    report = check_root(tmp_path/"set", "cityscapes", workers=0)
    assert [f.name in one.name for f in report.faults] == [True]
    one.unlink()
    report = check_root(tmp_path/"set", "cityscapes", workers=0)
    assert any("not found" in f.what for f in report.faults)


def test_looks_of_objects_are_plain():
    with pytest.raises(HotsegError, match="look"): Request("voc", (("train", 1),), "game", 0, 64, 64)


@pytest.mark.parametrize("name", SMALL)
def test_the_small_sets_are_whole(name):
    verify_written(embedded(f"small/{name}"))
    assert [len(small(name, split)) for split, _ in SMALL[name].counts] == [n for _, n in SMALL[name].counts]


def test_objects_keep_their_labels_and_tags():
    items = small("objects", "train")
    drawn = ObjectScenes(len(items), 0, "train", 128, 128)
    for i in range(len(items)):
        np.testing.assert_array_equal(items.read(i)[1], drawn.read(i)[1])
        np.testing.assert_array_equal(items.tags(i), drawn.tags(i))


def command(*words, **env):
    return subprocess.run([sys.executable, "-m", "hotseg.cli", *words], capture_output=True, text=True,
                          env=os.environ | env)


def test_the_command_writes_and_checks(tmp_path):
    made = command("data", "scenes", str(tmp_path/"set"), "--layout", "gta5", *"--n 3 --val 1".split(),
                   *"--height 64 --width 128 --json".split())
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert told["look"] == "game" and told["counts"] == {"train": 3, "val": 1}
    good = command("data", "check", str(tmp_path/"set"), "--layout", "gta5")
    assert good.returncode == 0 and "ok" in good.stdout, good.stderr
    label = sorted((tmp_path/"set"/"labels").iterdir())[1]
    label.write_bytes(label.read_bytes()[:60])
    bad = command("data", "check", str(tmp_path/"set"), "--layout", "gta5", "--json")
    report = json.loads(bad.stdout)
    assert bad.returncode == 1 and not report["ok"] and label.name in report["faults"][0]["path"]


def test_the_command_packs(tmp_path):
    root = str(embedded("small/game"))
    made = command("data", "pack", "gta5/train", str(tmp_path/"packed"), "--root", root,
                   *"--height 64 --width 128 --json".split())
    assert made.returncode == 0, made.stderr
    assert len(json.loads(made.stdout)["names"]) == 4


def test_the_command_converts(tmp_path):
    np.save(tmp_path/"cls_labels.npy", np.array({"2007_000032": np.eye(20, dtype=np.float32)[3]}, dtype=object))
    made = command("data", "convert", str(tmp_path/"cls_labels.npy"), str(tmp_path/"tags"), "--json")
    assert made.returncode == 0 and json.loads(made.stdout)["kind"] == "tags", made.stderr
    assert command("data", "convert", str(tmp_path/"none.npy"), str(tmp_path/"x")).returncode == 2


def test_the_command_checks_own_folders(tmp_path):
    words = "data", "check", str(embedded("small/game")), "--layout", "folder", "--split", "train"
    assert command(*words, "-o", "space=gta5").returncode == 0
    assert command(*words, "-o", "space=voc").returncode == 1
    assert command(*words, "--workers", "-1").returncode == 2


def test_the_command_notices_another_picture(tmp_path):
    root = shutil.copytree(embedded("small/game"), tmp_path/"game")
    one, two = sorted((root/"images").iterdir())[:2]
    one.write_bytes(two.read_bytes())
    (root/"labels"/one.name).write_bytes((root/"labels"/two.name).read_bytes())
    checked = command("data", "check", str(root), "--layout", "gta5", "--json")
    report = json.loads(checked.stdout)
    assert checked.returncode == 1 and not report["ok"]
    assert any("not those that were written" in fault["what"] for fault in report["faults"])


def test_the_camera_file_has_the_vanishing_point(whole):
    "A bend of the street moves it off the middle"
    told = [json.loads(p.read_text())["intrinsic"] for p in sorted((whole/"camera").rglob("*train_*.json"))]
    cameras = [StreetScenes(6, 3, "train", 64, 128).scene(i).camera for i in range(6)]
    assert [(t["u0"], t["v0"]) for t in told] == [(64 + c.vanish * 64, c.horizon * 64) for c in cameras]
    assert len({t["u0"] for t in told}) > 1


def test_the_command_lists(tmp_path):
    listed = command("data", "list", "--root", str(embedded("small")), "--json")
    assert listed.returncode == 0 and set(json.loads(listed.stdout)) == set(READERS) - {"folder"}
