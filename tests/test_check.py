"""Checking a data set, and converting published side files: every fault told, nothing run."""
import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from hotseg.core import HotsegError, read_json, write_json
from hotseg.data.check import check_root, check_set, look, show_progress
from hotseg.data.convert import convert, kind_of, read_side_file, unpickle
from hotseg.data.layouts import read_tags
from hotseg.data.sets import folder_items
from hotseg.labels import CAMVID, VOC

DATA = Path(os.environ.get("HOTSEG_DATA", "/nowhere"))


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


def write(home, split, n, first=0):
    "`n` pairs of noise and two classes"
    for sub in (split, f"{split}annot"): (home/sub).mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        rng = np.random.default_rng([len(split), i])
        cv2.imwrite(str(home/split/f"{split} {i:03} é.png"), rng.integers(0, 256, (24, 32, 3), np.uint8))
        cv2.imwrite(str(home/f"{split}annot"/f"{split} {i:03} é.png"), rng.integers(3, 5, (24, 32), np.uint8))


def items(home, *splits): return {s: folder_items(home/s, home/f"{s}annot", CAMVID, s) for s in splits}


@pytest.fixture
def home(tmp_path):
    write(tmp_path, "train", 6); write(tmp_path, "val", 3)
    return tmp_path


def label(home, i): return home/"trainannot"/f"train {i:03} é.png"


# What is sound

def test_a_sound_set(home):
    report = check_set(items(home, "train", "val"))
    train = report.parts["train"]
    assert report.ok and (train.items, train.read, train.sizes) == (6, 6, {"24 x 32": 6})
    assert sum(train.pixels.values()) == 6 * 24 * 32 and train.images["road"] == 6 and train.images["car"] == 0
    assert abs(sum(train.shares.values()) - 100) < 1e-9 and str(report).endswith("file at hand was read\nok")
    assert json.loads(json.dumps(report.to_dict()))["parts"]["val"]["shares"]["road"] > 40


def test_no_items():
    report = check_set({})
    assert report.ok and report.parts == {} and str(report)


@dataclass
class Drawn:
    "Items without files, as the generated scenes are; the third one fails"
    space = CAMVID
    split = "drawn"
    names = ("a", "b", "c")

    def __len__(self): return 3

    def read(self, i):
        if i == 2: raise RuntimeError("out of paint")
        return np.full((4, 6, 3), i, np.uint8), np.full((4, 6), 255, np.uint8)


def test_items_without_files():
    report = check_set({"drawn": Drawn()})
    assert [(f.name, f.what) for f in report.faults] == [("c", "RuntimeError: out of paint")]
    assert report.parts["drawn"].pixels["void"] == 48 and "out of paint" in str(report)


# What is not

DAMAGE = {
    "cannot be decoded": lambda p: p.write_bytes(p.read_bytes()[:60]),
    "CRC": lambda p: p.write_bytes(p.read_bytes()[:-20] + b"x" + p.read_bytes()[-19:]),
    "outside the label space": lambda p: cv2.imwrite(str(p), np.full((24, 32), 77, np.uint8)),
    "differ in size": lambda p: cv2.imwrite(str(p), np.zeros((12, 32), np.uint8)),
    "single-channel": lambda p: cv2.imwrite(str(p), np.zeros((24, 32, 3), np.uint8)),
    "uint16": lambda p: cv2.imwrite(str(p), np.zeros((24, 32), np.uint16)),
    "no labelled pixel": lambda p: cv2.imwrite(str(p), np.full((24, 32), 11, np.uint8)),
    "0 bytes": lambda p: p.write_bytes(b"")}


@pytest.mark.parametrize("word", DAMAGE)
def test_each_damage(home, word):
    DAMAGE[word](label(home, 2))
    report = check_set(items(home, "train", "val"))
    fault, = report.faults
    assert not report.ok and fault.name == "train 002 é" and fault.path == str(label(home, 2))
    assert ("cannot be decoded" if word == "CRC" else word) in f"{fault.what} {fault.value}"
    assert report.parts["train"].read == (6 if word == "no labelled pixel" else 5)


def test_all_damages_at_once(home):
    "Nothing stops at the first fault"
    write(home, "train", 4, first=6)
    for i, damage in enumerate(DAMAGE.values()): damage(label(home, i))
    report = check_set(items(home, "train", "val"))
    assert len(report.faults) == len(DAMAGE) and report.parts["val"].read == 3
    assert [f.name for f in report.faults] == sorted(f.name for f in report.faults)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(home):
    label(home, 1).chmod(0)
    assert "permission" in check_set(items(home, "train")).faults[0].fix.lower()


def test_leaks_and_copies(home):
    "A copy is found under another name and as another file"
    first = cv2.imread(str(home/"train"/"train 000 é.png"))
    cv2.imwrite(str(home/"val"/"val 002 é.png"), first, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    cv2.imwrite(str(home/"train"/"train 005 é.png"), cv2.imread(str(home/"train"/"train 004 é.png")))
    report = check_set(items(home, "train", "val"))
    assert report.leaks == (("train/train 000 é", "val/val 002 é"),) and not report.faults and not report.ok
    assert report.copies == (("train/train 004 é", "train/train 005 é"),)
    assert "in two splits" in str(report) and "twice in a split" in str(report)


def test_pictures_of_one_content_and_two_shapes_differ():
    class Flat(Drawn):
        def read(self, i):
            shape = ((2, 6), (3, 4), (6, 2))[i]
            return np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    assert len({look(Flat(), i).digest for i in range(3)}) == 3


def test_workers_find_the_same(home):
    label(home, 3).write_bytes(b"x")
    told = []
    def check(n): return check_set(items(home, "train", "val"), workers=n, progress=lambda *at: told.append(at))
    alone, many = check(0), check(2)
    assert alone.to_dict() == many.to_dict() and told == 2 * [(i, 9) for i in range(1, 10)]


class Fatal(Drawn):
    def read(self, i): os._exit(3)


def test_a_worker_that_dies():
    refuses(lambda: check_set({"drawn": Fatal()}, workers=1), "a worker process died", "workers=0")


def test_progress_is_for_terminals(capsys, monkeypatch):
    show_progress(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for done in range(1, 1001): show_progress(done, 1000)
    shown = capsys.readouterr().err
    assert shown.endswith("1000/1000\n") and shown.count("\r") == 200


# Layouts

def test_a_written_set_says_its_splits(home):
    write_json(home/"hotseg.json", {"counts": {"all-train": 6, "clip": 3}})
    (home/"clip").mkdir(); (home/"clipannot").mkdir()
    report = check_root(home, "camvid")
    assert set(report.parts) <= {"all-train", "clip"} and report.parts["all-train"].read == 6
    (home/"hotseg.json").write_text("{")
    assert {f.split for f in check_root(home, "camvid").faults} == {"all-train", "clip"}


def test_an_incomplete_set_is_read_all_the_same(home):
    report = check_root(home, "camvid", splits=("all-train", "test"))
    assert [(f.split, f.name) for f in report.faults] == [("all-train", ""), ("test", "")]
    assert "6 of 367" in report.faults[0].value and report.parts["all-train"].read == 6


def test_a_root_that_is_not_there(tmp_path):
    report = check_root(tmp_path/"none", "cityscapes")
    assert not report.ok and report.parts == {} and [f.split for f in report.faults] == ["train", "val"]
    refuses(lambda: check_root(tmp_path, "imagenet"), "imagenet", "cityscapes")


@pytest.mark.skipif(not (DATA/"camvid").is_dir(), reason="HOTSEG_DATA has no camvid")
def test_camvid_itself():
    report = check_root(DATA, "camvid", workers=0)
    assert report.ok and not report.copies and [p.read for p in report.parts.values()] == [367, 101]
    assert report.parts["all-train"].sizes == {"360 x 480": 367}
    assert 8.5 < report.parts["all-train"].images["bicyclist"] / 367 * 100 < 80


@pytest.mark.skipif(not (DATA/"msrc").is_dir(), reason="HOTSEG_DATA has no msrc")
def test_msrc_itself():
    report = check_root(DATA, "msrc", workers=0)
    assert report.ok and [p.read for p in report.parts.values()] == [294, 102]
    assert sum(n for p in report.parts.values() for c, n in p.images.items() if c != "background") == 461


# Converting

class Evil:
    def __init__(self, *call): self.call = call
    def __reduce__(self): return self.call


def npy(path, data): np.save(path, np.array(data, dtype=object) if isinstance(data, dict) else data, allow_pickle=True)


def as_numpy1(data):
    "A pickle under the module names of numpy 1; frames dropped, since lengths change"
    data = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    data = data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    data = data.replace(b"numpy._core", b"numpy.core")
    return data[:2] + data[11:] if data[2:3] == b"\x95" else data


FLAT = np.arange(6, dtype=np.float32)
VALUES = {"float32": FLAT.reshape(2, 3), "fortran": np.asfortranarray(FLAT.reshape(2, 3)),
          "big endian": FLAT.astype(">i4"), "bool": np.array([True, False]), "uint8": np.arange(256, dtype=np.uint8),
          "empty": np.zeros((0, 3)), "scalar": np.float64(2.5), "0-d": np.array(3), "half": FLAT.astype(np.float16)}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("numpy1", [False, True])
def test_arrays_of_every_kind(protocol, numpy1):
    data = pickle.dumps({"a": [VALUES, ("x", 1, None, -2.5, b"\xff")]}, protocol)
    back = unpickle(as_numpy1(data) if numpy1 else data)["a"]
    assert b"numpy._core" not in data or not numpy1 or b"numpy._core" not in as_numpy1(data)
    for name, value in VALUES.items():
        assert np.array_equal(back[0][name], value) and np.shape(back[0][name]) == np.shape(value)
    assert back[1] == ("x", 1, None, -2.5, b"\xff")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("call, name", [
    ((os.system, ("touch ran",)), "system"), ((eval, ("1",)), "eval"), ((np.load, ("x",)), "numpy.load"),
    ((getattr, (1, "real")), "getattr"), ((__import__, ("os",)), "__import__"),
    ((np.frombuffer, (b"ab",)), "frombuffer"), ((io.open, ("ran", "w")), "open"), ((bytes, (10**9,)), "")])
def test_nothing_runs(tmp_path, monkeypatch, protocol, call, name):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"tags": np.ones(3), "evil": Evil(*call)}, protocol)
    refuses(lambda: unpickle(data, "side.npy"), "side.npy", name)
    assert not (tmp_path/"ran").exists()


def test_every_cut_and_many_flips_are_refused_or_harmless():
    "No prefix and no flipped byte gets more than data or a HotsegError"
    for protocol in (2, 4, 5):
        data = pickle.dumps({"a": np.arange(4, dtype=np.float32), 1: [2, "b"]}, protocol)
        for n in range(len(data)): refuses(lambda d=data[:n]: unpickle(d, "x.npy"), "x.npy")
        for n in range(len(data)):
            for bit in (1, 16, 128):
                forged = bytearray(data); forged[n] ^= bit
                try: unpickle(bytes(forged))
                except HotsegError: pass


def test_shared_lists_do_not_multiply():
    "Thirty lists, each holding the one before twice, are a thousand million values when walked"
    data = b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(30)) + b"."
    refuses(lambda: unpickle(data), "nested too deep")
    wide: list = [0]
    for _ in range(5): wide = [wide] * 40
    refuses(lambda: unpickle(pickle.dumps(wide)), "too many values")


def test_sets_and_objects_are_not_data():
    refuses(lambda: unpickle(pickle.dumps({1, 2}, 4)), "not data")
    refuses(lambda: unpickle(pickle.dumps(np.array([{1: 2}, None], dtype=object).reshape(1, 2), 4)), "object array")
    assert unpickle(pickle.dumps(np.array([{1: 2}, None], dtype=object), 4)) == [{1: 2}, None]


@pytest.mark.parametrize("change, words", [
    (lambda d: d[:-7], "cut short"), (lambda d: d + b"x", "cut short"), (lambda d: d[:8], "not a .npy"),
    (lambda d: b"", "damaged"),
    (lambda d: d[:6] + b"\x09" + d[7:], "not a .npy"), (lambda d: d.replace(b"(3, 4)", b"(9, 9)"), "cut short"),
    (lambda d: d.replace(b"'<f4'", b"'<U1'"), "not of numbers"), (lambda d: d.replace(b"'<f4'", b"'|O' "), "damaged")])
def test_npy_files_that_are_none(tmp_path, change, words):
    np.save(tmp_path/"a.npy", np.zeros((3, 4), np.float32))
    (tmp_path/"a.npy").write_bytes(change((tmp_path/"a.npy").read_bytes()))
    refuses(lambda: read_side_file(tmp_path/"a.npy"), "a.npy", words)


def test_limits_and_absence(tmp_path):
    np.save(tmp_path/"a.npy", np.zeros(1000))
    refuses(lambda: read_side_file(tmp_path/"a.npy", limit=999), "larger than the limit", "raise limit=")
    refuses(lambda: read_side_file(tmp_path/"b.npy"), "b.npy", "not found")


def test_tags_reach_the_reader(tmp_path):
    rng = np.random.default_rng(0)
    published = {f"2007_{i:06}": (rng.random(20) < .1).astype(np.float32) for i in range(50)}
    npy(tmp_path/"cls_labels.npy", published)
    convert(tmp_path/"cls_labels.npy", tmp_path/"out")
    read = read_tags(tmp_path/"out"/"tags.json", list(published), VOC)
    assert [list(row) for row in read] == [row.astype(int).tolist() for row in published.values()]
    assert read_json(tmp_path/"out"/"manifest.json")["items"] == 1


def test_scores_keep_their_values(tmp_path):
    maps = {np.int64(14): np.random.default_rng(0).random((5, 7)), 4: np.ones((5, 7), np.float32)}
    (tmp_path/"crf").mkdir(); npy(tmp_path/"crf"/"a é.npy", maps)
    refuses(lambda: convert(tmp_path/"crf", tmp_path/"out"), "first=0", "a é.npy")
    assert not (tmp_path/"out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["crf"]
    assert convert(tmp_path/"crf", tmp_path/"out", first=0)["kind"] == "scores"
    with np.load(tmp_path/"out"/"a é.npz", allow_pickle=False) as stored:
        assert stored["classes"].tolist() == [4, 14] and stored["maps"].dtype == np.float32
        assert np.allclose(stored["maps"][1], maps[np.int64(14)])


def test_boundary_maps(tmp_path):
    (tmp_path/"sb_map").mkdir()
    for i in range(3): np.save(tmp_path/"sb_map"/f"{i}.npy", np.full((21, 4, 5), i, np.float32))
    told = convert(tmp_path/"sb_map", tmp_path/"out")
    assert told["kind"] == "map" and len(told["sha256"]) == 3
    with np.load(tmp_path/"out"/"2.npz", allow_pickle=False) as stored: assert (stored["map"] == 2).all()


def test_one_bad_file_leaves_nothing(tmp_path):
    (tmp_path/"cams").mkdir(); npy(tmp_path/"cams"/"a.npy", {0: np.ones((2, 2))})
    npy(tmp_path/"cams"/"b.npy", {0: Evil(os.system, (f"touch {tmp_path/'ran'}",))})
    refuses(lambda: convert(tmp_path/"cams", tmp_path/"out", first=1), "b.npy", "system")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cams"]


def test_folders_that_cannot_be(tmp_path):
    (tmp_path/"in").mkdir(); (tmp_path/"there").mkdir()
    refuses(lambda: convert(tmp_path/"in", tmp_path/"out"), "no side file")
    npy(tmp_path/"in"/"a.npy", {0: np.ones((2, 2))})
    refuses(lambda: convert(tmp_path/"in", tmp_path/"there", first=1), "there already")
    np.save(tmp_path/"in"/"b.npy", np.ones((2, 2)))
    refuses(lambda: convert(tmp_path/"in", tmp_path/"out", first=1), "several kinds")
    (tmp_path/"in"/"a.pkl").write_bytes(pickle.dumps(np.ones((2, 2))))
    refuses(lambda: convert(tmp_path/"in", tmp_path/"out", first=1), "two files with one name")
    for odd in (3, {}, {"a": np.ones((2, 2))}, {0: np.ones((2, 2, 2))}, np.ones(3)):
        refuses(lambda v=odd: kind_of(v, "o.npy"), "o.npy")
    for bad in ({0: np.ones((2, 2)), 1: np.ones((3, 2))}, {-1: np.ones((2, 2))}, {255: np.ones((2, 2))}):
        npy(tmp_path/"bad.npy", bad)
        refuses(lambda: convert(tmp_path/"bad.npy", tmp_path/"out", first=0), "bad.npy")
