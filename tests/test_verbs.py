"""The command line: help, examples, start-up, exit codes, JSON; eval, export, distort and lab in particular."""
import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hotseg.cli import main, parser
from hotseg.commands.lab import page_of
from hotseg.core import HotsegError, embedded, in_processes, read_json
from hotseg.data.media import write_clip
from hotseg.data.photos import read_picture
from hotseg.distorted import DistortJob
from hotseg.folders import Lock
from hotseg.labels import CITYSCAPES
from hotseg.models.export import Exported, export_network
from hotseg.saved import open_model

ROOT = Path(__file__).parents[1]
HERE = {**os.environ, "HOTSEG_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def leaves(top, words=()):
    "Every verb, and every action of a verb: words -> parser"
    subs = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    if not subs: return {words: top}
    return {w: p for name, part in subs[0].choices.items() for w, p in leaves(part, (*words, name)).items()}


LEAVES = leaves(parser())
VERBS = {words[0] for words in LEAVES}


@pytest.fixture
def hotseg(tmp_path, monkeypatch):
    "The command in this process, its runs in a folder of the test's own: exit code, stdout, stderr"
    monkeypatch.setenv("HOTSEG_RUNS", str(tmp_path/"runs"))
    monkeypatch.setenv("HOTSEG_DEVICE", "cpu")
    def call(*words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try: code = main([str(w) for w in words]) or 0
            except SystemExit as e: code = e.code or 0
        return code, out.getvalue(), err.getvalue()
    return call


def child(*words, **kwargs):
    "The command in a process of its own"
    return subprocess.Popen([sys.executable, "-m", "hotseg.cli", *map(str, words)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{"env": HERE} | kwargs)


def tree(folder): return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


# Help

def test_all_verbs_are_there():
    "Those that the plan of the house promises"
    assert {"run", "eval", "export", "predict", "restore", "distort", "data", "results", "sweep", "lab",
            "bench"} <= VERBS


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_an_example_that_parses(words):
    "Taken from the help, word by word, it reaches the verb whose help it stands in"
    one = LEAVES[words]
    example = re.fullmatch(r"example: (hotseg .+)", one.epilog or "")
    assert example, f"no example in the help of {' '.join(words)}"
    _, *given = shlex.split(example[1])
    assert tuple(given[:len(words)]) == words
    assert parser().parse_args(given).work == one.get_default("work")


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_word_is_explained(words):
    one = LEAVES[words]
    assert one.description and [a.dest for a in one._actions if not a.help] == []


LIGHT = """
import json, sys
from hotseg.cli import main
heavy = {}
for words in json.load(sys.stdin):
    try: main([*words, "--help"])
    except SystemExit as e: assert e.code == 0, words
    heavy[" ".join(words)] = sorted({"torch", "fastai", "matplotlib"} & sys.modules.keys())
print(json.dumps(heavy), file=sys.stderr)
"""


def test_help_needs_nothing_heavy():
    "Neither `hotseg --help` nor that of any verb waits for torch, fastai or matplotlib"
    asked = [(), *((verb,) for verb in VERBS), *LEAVES]
    done = subprocess.run([sys.executable, "-c", LIGHT], input=json.dumps(asked), capture_output=True, text=True,
                          cwd=ROOT, env=HERE)
    assert done.returncode == 0, done.stderr
    assert {words: found for words, found in json.loads(done.stderr).items() if found} == {}
    assert all(verb in done.stdout for verb in VERBS)


# Exit codes

def test_exit_codes_of_a_process(tmp_path):
    "0, 1, 2, in a shell's eyes, and never a traceback"
    spoilt = shutil.copytree(embedded("small/objects"), tmp_path/"objects")
    next((spoilt/"SegmentationClass").iterdir()).unlink()
    calls = {0: ("data", "list", "--root", embedded("small")), 1: ("data", "check", spoilt, "--layout", "voc"),
             2: ("eval", "no such model")}
    ended = {want: child(*words) for want, words in calls.items()}
    told = {want: (one.communicate()[1], one.returncode) for want, one in ended.items()}
    assert {want: code for want, (_, code) in told.items()} == {0: 0, 1: 1, 2: 2}
    assert not any("Traceback" in err for err, _ in told.values())
    assert "streets" in told[2][0]  # what there is instead


@pytest.mark.parametrize("words", [("shout",), (), ("eval",), ("export", "streets"), ("distort", "x"),
                                   ("eval", "streets", "--limit", "-1"),
                                   ("export", "streets", "x.pt2", "--opset", "x")], ids=" ".join)
def test_words_that_do_not_parse(hotseg, words):
    code, out, err = hotseg(*words)
    assert (code, out) == (2, "") and "usage: hotseg" in err


def test_a_folder_of_runs_that_is_not_there(hotseg, tmp_path):
    code, out, err = hotseg("results", "list", "--runs", tmp_path/"nope")
    assert (code, out) == (2, "") and "no such folder of runs" in err


# JSON

SMALL = {
    ("data", "list"): "--root {small}",
    ("data", "check"): "{small}/objects --layout voc",
    ("data", "scenes"): "{out}/scenes --n 1 --val 1 --height 32 --width 64",
    ("data", "pack"): "voc/val {out}/pack --root {small}/objects --height 32 --width 32",
    ("results", "list"): "",
    ("eval",): "streets gta5/train --root {small}/game --arm clean --limit 1 --rows 32",
    ("distort",): "{small}/streets/leftImg8bit/val {out}/hazy",
    ("predict",): "streets {small}/streets/leftImg8bit/val {out}/predicted --arm clean --limit 1 --rows 32",
    ("restore",): "streets {small}/streets/leftImg8bit/val {out}/restored --limit 1 --rows 32",
}
ELSEWHERE = {("export",), ("run",), ("sweep",), ("bench",), ("data", "convert"), ("results", "compare"),
             ("results", "export"), ("results", "verify"), ("results", "reproduce")}
# (those need a run, a legacy file or minutes: they have their own tests)


def test_no_json_is_forgotten():
    "A verb that learns --json is called here, or named as tested elsewhere"
    able = {words for words, one in LEAVES.items() if "--json" in one._option_string_actions}
    assert able == SMALL.keys() | ELSEWHERE


@pytest.mark.parametrize("words", SMALL, ids=" ".join)
def test_json_is_one_document(hotseg, tmp_path, words):
    given = SMALL[words].format(small=embedded("small"), out=tmp_path)
    code, out, _ = hotseg(*words, *given.split(), "--json")
    assert code == 0 and isinstance(json.loads(out), (dict, list)) and out.endswith("\n")


# eval

def test_eval_says_what_the_run_said(hotseg):
    "The model that comes with hotseg, on all images it was scored on: its record, to the precision of 16-bit weights"
    recorded = {row["arm"]: row for row in read_json(embedded("models/streets")/"metrics.json")}
    told = json.loads(hotseg("eval", "streets", "--arm", "clean", "--arm", "feedback", "--json")[1])
    for row, name in zip(told["arms"], ("distorted", "feedback"), strict=True):
        assert row["images"] == recorded[name]["images"] and row["condition"] == "in haze 12 px"
        for key in ("miou", "miou_faithful", "accuracy", "boundary_miou", "image_miou_worst10"):
            assert row[key] == pytest.approx(recorded[name][key], abs=.1), (name, key)
    assert told["haze"]["strength_px"] == 12 and told["size_px"] == [96, 192]


def test_eval_in_other_haze_and_sizes(hotseg):
    def score(*words):
        told = json.loads(hotseg("eval", "streets", "--limit", "4", "--arm", "clean", "--json", *words)[1])
        return told, told["arms"][0]
    (plain, hazy), (clean, clear) = score(), score("--clean")
    assert plain["haze"] and clean["haze"] is None and hazy["miou"] != clear["miou"]
    assert score("--strength-px", "0")[1]["miou"] == clear["miou"]
    assert score("--batch", "1")[1]["miou"] == pytest.approx(hazy["miou"], abs=.01)
    assert (clear["condition"], score("--strength-px", "2")[1]["condition"]) == ("no haze", "in haze 2 px")
    assert score("--rows", "48")[0]["size_px"] == [48, 96]
    assert [w["miou"] for w in hazy["worst"]] == sorted(w["miou"] for w in hazy["worst"]) and len(hazy["worst"]) == 4
    assert all(hazy["iou_faithful"][name] == (value or 0) for name, value in hazy["iou"].items())


def test_eval_side_by_side(hotseg):
    "Arms are columns; every class is a line; progress is not among the results"
    words = ("eval", "streets", "cityscapes/val", "--root", embedded("small/streets"), "--arm", "all")
    code, out, err = hotseg(*words)
    assert code == 0 and "s an image" in err and "images," in out and "left" not in out
    lines = out.splitlines()
    assert next(line for line in lines if line.startswith("class")).split() == "class clean net feedback net".split()
    assert all(any(line.startswith(f"{arm} net, in haze 12 px ") for line in lines) for arm in ("clean", "feedback"))
    assert all(any(line.startswith(name) for line in lines) for name in open_model("streets").space.classes)
    native = json.loads(hotseg(*words[:-1], "clean", "--rows", "native", "--json")[1])
    assert native["size_px"] == ["native"] and native["images"] == 2


@pytest.mark.parametrize("words, said", [
    ("streets voc/val --root {small}/objects", "no map"), ("streets mars/val", "no such data"),
    ("streets --arm best", "no such arm"), ("streets --rows 4", "from 8 up"),
    ("streets --rows native", "size of its own"),
    ("streets --clean --strength-px 2", "leave one out"), ("streets --strength-px -2", "strength_px"),
    ("streets --device abacus", "no such device"), ("streets -o complete=false", "data set that is named"),
    ("streets camvid/test --root {small}", "camvid"), ("marsnet", "no such model")])
def test_eval_refuses(hotseg, words, said):
    code, out, err = hotseg("eval", *words.format(small=embedded("small")).split())
    assert (code, out) == (2, "") and said in err and "Traceback" not in err


def test_a_damaged_model_and_a_half_finished_run(hotseg, tmp_path):
    "Both verbs that open a model say what is the matter and what to do"
    for name in ("damaged", "half"): shutil.copytree(embedded("models/streets"), tmp_path/"runs"/name)
    weights = next((tmp_path/"runs"/"damaged"/"models").glob("clean*"))
    weights.write_bytes(weights.read_bytes()[:1000])
    record = tmp_path/"runs"/"half"/"run.json"
    record.write_text(json.dumps({k: v for k, v in read_json(record).items() if k != "model"} | dict(status="running")))
    before = tree(tmp_path)
    for name, fault in dict(damaged="damaged weight file", half="hotseg run --resume half").items():
        for verb, more in dict(eval=(), export=(tmp_path/"x.pt2",)).items():
            code, out, err = hotseg(verb, name, *more, "--arm", "clean")
            assert (code, out) == (2, "") and fault in err, (verb, name, err)
    assert tree(tmp_path) == before


# export

def test_onnx_without_hotseg(hotseg, tmp_path):
    "The file alone, in onnxruntime: any batch, any multiple of 8, the network's own labels, classes in the metadata"
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    code, out, _ = hotseg("export", "streets", tmp_path/"net.onnx", "--arm", "clean", "--images", "1")
    assert code == 0 and "multiples of 8" in out and "number of images" in out
    session = onnxruntime.InferenceSession(str(tmp_path/"net.onnx"), providers=["CPUExecutionProvider"])
    record, model = json.loads(session.get_modelmeta().custom_metadata_map["hotseg"]), open_model("streets", "clean")
    assert record["space"]["classes"] == list(model.space.classes)
    assert (record["opset"], record["arm"], record["size_px"]) == (18, "clean", [96, 192])
    for shape in ((1, 96, 192), (3, 40, 72), (2, 64, 128)):
        image = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(0))
        with torch.no_grad(): ours = model.method.predict(image)
        theirs = session.run(["logits"], dict(image=image.numpy()))[0]
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4 * float(ours.abs().max().clamp(min=1)))
        assert (theirs.argmax(1) == ours.argmax(1).numpy()).mean() > .9999
    assert str(ROOT).encode() not in (tmp_path/"net.onnx").read_bytes()


def test_pt2_without_hotseg(hotseg, tmp_path):
    "torch.export reads it back; the record beside the graph; no path of this machine"
    out = json.loads(hotseg("export", "streets", tmp_path/"net.pt2", "--arm", "clean", "--images", "1", "--json")[1])
    more = {"hotseg.json": ""}
    net = torch.export.load(tmp_path/"net.pt2", extra_files=more).module()
    image = torch.rand(3, 3, 40, 72, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): torch.testing.assert_close(net(image), open_model("streets", "clean").method.predict(image))
    told = json.loads(more["hotseg.json"])
    assert told == {k: v for k, v in out.items() if k not in ("parity", "tolerance", "bytes")}
    assert out["parity"].keys() == {"random", "real"} and out["free"] == ["batch", "size"]
    assert Exported(tmp_path/"net.pt2")(image[..., :37, :65]).shape == (3, 19, 37, 65)
    assert str(ROOT).encode() not in (tmp_path/"net.pt2").read_bytes()


def test_a_file_that_differs_is_not_kept(hotseg, tmp_path, monkeypatch):
    "The work failed: exit code 1, no file, and one that was there stays as it was"
    (tmp_path/"net.pt2").write_text("old")
    honest = Exported.__call__
    monkeypatch.setattr(Exported, "__call__", lambda self, image: honest(self, image) + .01)
    code, out, err = hotseg("export", "streets", tmp_path/"net.pt2", "--arm", "clean", "--images", "1", "--replace")
    assert (code, out) == (1, "") and "nothing was written" in err
    assert tree(tmp_path) == {Path("net.pt2"): b"old"}


def test_without_onnx(hotseg, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["hotseg.models.export"], "find_spec",
                        lambda name: None if name.startswith("onnx") else True)
    code, _, err = hotseg("export", "streets", tmp_path/"net.onnx")
    assert code == 2 and "hotseg[onnx]" in err and "onnxruntime" in err and tree(tmp_path) == {}


@pytest.mark.parametrize("words, said", [
    ("streets {out}/net.pth", ".onnx, .pt2"), ("streets {out}/no/net.pt2", "no such folder"),
    ("streets {out}/net.onnx --opset 9", "18 to 23"), ("streets {out}/there.pt2", "--replace"),
    ("streets {out}/folder.pt2", "this is a folder"), ("streets {out}/folder.pt2 --replace", "this is a folder"),
    ("streets {out}/net.pt2 --tolerance 0", "tolerance"), ("streets {out}/net.pt2 --tolerance 1e-12", "float32"),
    ("streets /proc/net.pt2", "cannot be written"),
    ("streets {out}/net.pt2 --arm best", "no such arm"), ("marsnet {out}/net.pt2", "no such model")])
def test_export_refuses(hotseg, tmp_path, words, said):
    (tmp_path/"there.pt2").write_text("mine")
    (tmp_path/"folder.pt2").mkdir()
    before = tree(tmp_path)
    code, out, err = hotseg("export", *words.format(out=tmp_path).split())
    assert (code, out) == (2, "") and said in err and tree(tmp_path) == before
    assert "tracing" not in err and "Traceback" not in err


def test_a_tolerance_too_small(tmp_path, monkeypatch):
    "Differences of rounding are not the network's fault: the way out is another tolerance"
    honest = Exported.__call__
    monkeypatch.setattr(Exported, "__call__", lambda self, image: honest(self, image) * (1 + 3e-6))
    with pytest.raises(HotsegError, match="ask for a tolerance of 0.0001") as found:
        export_network(torch.nn.Conv2d(3, 19, 1), tmp_path/"net.pt2", CITYSCAPES, (16, 24), tolerance=1e-6)
    assert found.value.code == 1 and tree(tmp_path) == {}


def test_a_full_disk(tmp_path):
    "The system's refusal, in the middle of the file, is an error that names it; nothing stays"
    code = ("import resource, sys, torch; from hotseg.models.export import export_network;"
            "from hotseg.labels import CITYSCAPES; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
            "export_network(torch.nn.Conv2d(3, 19, 21), sys.argv[1], CITYSCAPES, (32, 32))")
    done = subprocess.run([sys.executable, "-c", code, tmp_path/"net.pt2"], cwd=ROOT, env=HERE, text=True,
                          capture_output=True)
    assert "HotsegError: the file cannot be written" in done.stderr and tree(tmp_path) == {}


# distort

@pytest.fixture
def photos(tmp_path): return shutil.copytree(embedded("small/streets")/"leftImg8bit", tmp_path/"photos")


def pictures(folder): return {name: data for name, data in tree(folder).items() if name.suffix == ".png"}


def test_distort_by_many(hotseg, tmp_path, photos):
    "Two processes write what one writes; names and sizes are the sources'; another seed is another haze"
    for out, more in dict(one=(), two=("--workers", "2"), seed=("--seed", "1")).items():
        assert hotseg("distort", photos, tmp_path/out, *more)[0] == 0
    one, two, other = (pictures(tmp_path/name) for name in ("one", "two", "seed"))
    assert one == two and one.keys() == other.keys() == pictures(photos).keys()
    assert not any(one[name] == other[name] for name in one)
    name = next(iter(one))
    assert read_picture(tmp_path/"one"/name).shape == read_picture(photos/name).shape
    told = read_json(tmp_path/"one"/"distortion.json")
    assert told["status"] == "done" and told["request"]["seed"] == 0
    assert told["request"]["distortion"]["model"] == "elastic"
    assert told["files"] == [name.as_posix()[:-4] for name in sorted(one)]


def test_haze_belongs_to_the_name(hotseg, tmp_path, photos):
    "A picture alone is distorted as it is among others"
    hotseg("distort", photos, tmp_path/"all")
    name = sorted(pictures(photos))[2]
    (tmp_path/"some"/name).parent.mkdir(parents=True)
    shutil.copy(photos/name, tmp_path/"some"/name)
    hotseg("distort", tmp_path/"some", tmp_path/"one")
    assert pictures(tmp_path/"one")[name] == pictures(tmp_path/"all")[name]


def noise(folder, count, size=(300, 400)):
    "Pictures that take a while"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count): cv2.imwrite(str(folder/f"{i:02d}.png"), rng.integers(0, 255, (*size, 3), np.uint8))


def begun(folder, words):
    "A process that has written two pictures"
    one, deadline = child(*words), time.monotonic() + 120
    while len(pictures(folder)) < 2 and one.poll() is None and time.monotonic() < deadline: time.sleep(.01)
    return one


def test_distort_goes_on(tmp_path):
    "Interrupted in the middle: 130, whole files only; the same command ends the work and keeps what was there"
    noise(tmp_path/"many", 40)
    words = ("distort", tmp_path/"many", tmp_path/"out")
    one = begun(tmp_path/"out", words)
    one.send_signal(signal.SIGINT)
    _, err = one.communicate()
    half = {p: (data, (tmp_path/"out"/p).stat().st_mtime_ns) for p, data in pictures(tmp_path/"out").items()}
    assert one.returncode == 130 and "Traceback" not in err and "goes on" in err and 2 <= len(half) < 40
    assert read_json(tmp_path/"out"/"distortion.json")["status"] == "stopped"
    told = json.loads(child(*words, "--json").communicate()[0])
    assert told["status"] == "done" and len(told["files"]) == 40 == len(pictures(tmp_path/"out"))
    assert {p: (data, (tmp_path/"out"/p).stat().st_mtime_ns) for p, (data, _) in half.items()} == half
    assert not list((tmp_path/"out").rglob("*.tmp"))


def test_two_do_not_write_into_one_folder(hotseg, tmp_path, photos):
    assert hotseg("distort", photos, tmp_path/"out", "--limit", "1")[0] == 0
    before, lock = pictures(tmp_path/"out"), Lock(tmp_path/"out"/".lock").hold()
    code, out, err = hotseg("distort", photos, tmp_path/"out")
    assert (code, out) == (2, "") and "another process is writing here" in err
    assert pictures(tmp_path/"out") == before
    lock.release()
    assert hotseg("distort", photos, tmp_path/"out")[0] == 0 and len(pictures(tmp_path/"out")) > len(before)


def test_distort_a_clip(hotseg, tmp_path):
    frames = [np.full((32, 48, 3), 40 * i, np.uint8) for i in range(4)]
    write_clip(tmp_path/"pan.mp4", frames, 10)
    assert hotseg("distort", tmp_path/"pan.mp4", tmp_path/"out")[0] == 0
    assert {p.as_posix() for p in tree(tmp_path/"out")} - {".lock"} == {"distortion.json", "distorted.mp4",
                                                                        *(f"pan-{i:06d}.png" for i in range(1, 5))}
    assert cv2.VideoCapture(str(tmp_path/"out"/"distorted.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_distort_says_what_it_could_not(hotseg, tmp_path, monkeypatch, workers):
    "A picture that goes bad under way: the others are written, the work is not done, exit code 1"
    noise(tmp_path/"in", 3, (30, 40))
    honest = DistortJob.run
    def spoil(job, *given):
        (tmp_path/"in"/"01.png").write_bytes((tmp_path/"in"/"01.png").read_bytes()[:300])
        return honest(job, *given)
    monkeypatch.setattr(DistortJob, "run", spoil)
    def here(work, jobs, _, *more): return in_processes(work, jobs, 0, *more)  # real ones: test_distort_by_many
    monkeypatch.setattr("hotseg.distorted.in_processes", here)
    code, out, err = hotseg("distort", tmp_path/"in", tmp_path/"out", "--workers", workers)
    assert code == 1 and "2 of 3" in out and "01: " in err and "Traceback" not in err
    told = read_json(tmp_path/"out"/"distortion.json")
    assert (told["status"], told["files"], [*told["failed"]]) == ("incomplete", ["00", "02"], ["01"])


def test_distort_a_part_of_a_data_set(hotseg, tmp_path):
    "--root says where it is, --limit how much; nothing is written into it"
    home = shutil.copytree(embedded("small/streets"), tmp_path/"streets")
    before = tree(home)
    words = "distort", "cityscapes/val"
    code, out, _ = hotseg(*words, tmp_path/"out", "--root", home, "--limit", "1", "--json")
    shown = [name for name in pictures(tmp_path/"out") if name.parts[0] == "leftImg8bit"]
    assert code == 0 and len(json.loads(out)["files"]) == len(shown) == 1 and shown[0] in before
    for inner in ("leftImg8bit/hazy", "gtFine", "hazy"):
        code, _, err = hotseg(*words, home/inner, "--root", home)
        assert code == 2 and "its input" in err and tree(home) == before


@pytest.mark.parametrize("words, said", [
    ("{photos} {photos}", "over its input"), ("{photos} {photos}/hazy", "inside its input"),
    ("{out}/text.png {out}/x", "not a picture"), ("{out}/none {out}/x", "no such picture"),
    ("{photos} {out}/text.png", "cannot be written"), ("{photos} /proc/x", "cannot be written"),
    ("{photos} {out}/mine", "holds other things"),
    ("{photos} {out}/x --strength-px -1", "bad --strength-px"),
    ("{photos} {out}/x --correlation-px 0", "bad --correlation-px"),
    ("{photos} {out}/x --rows 0", "bad --rows"), ("{out}/spoilt {out}/x", "broken.png")])
def test_distort_refuses(hotseg, tmp_path, photos, words, said):
    (tmp_path/"text.png").write_text("no picture")
    for name in ("mine", "spoilt"): (tmp_path/name).mkdir()
    (tmp_path/"mine"/"note.txt").write_text("keep")
    (tmp_path/"spoilt"/"broken.png").write_bytes(next(photos.rglob("*.png")).read_bytes()[:20])
    before = tree(tmp_path)
    code, out, err = hotseg("distort", *words.format(photos=photos, out=tmp_path).split())
    assert (code, out) == (2, "") and said in err and tree(tmp_path) == before and not (tmp_path/"x").exists()


# lab

SERVER = """
import signal, sys, time
print(" ".join(sys.argv[1:]), flush=True)
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))
    print("ready", flush=True)
    time.sleep(60)
sys.exit(7)
"""


@pytest.fixture
def servers(tmp_path):
    "Two servers that say what they were called with; the environment in which they are found first"
    for name in ("jupyterlab", "voila"):
        (tmp_path/"servers"/name).mkdir(parents=True)
        (tmp_path/"servers"/name/"__init__.py").write_text("")
        (tmp_path/"servers"/name/"__main__.py").write_text(SERVER)
    run = tmp_path/"runs"/"mine"
    run.mkdir(parents=True)
    for name in ("run.json", "notebook.ipynb"): (run/name).write_text("{}")
    (tmp_path/"runs"/"half").mkdir()
    (tmp_path/"runs"/"half"/"run.json").write_text("{}")
    return {**HERE, "PYTHONPATH": str(tmp_path/"servers"), "HOTSEG_RUNS": str(tmp_path/"runs")}


def test_lab_is_the_server(servers, tmp_path):
    "Its words, its exit code"
    calls = {"lab mine --port 8123 --no-browser --with=--x=1": (tmp_path/"runs"/"mine"/"notebook.ipynb", "--port=8123",
                                                                "--no-browser", "--x=1"),
             "lab": (ROOT/"nbs"/"index.ipynb", f"--ServerApp.root_dir={ROOT}"),
             f"lab {ROOT/'nbs'/'index.ipynb'} --app": (ROOT/"nbs"/"index.ipynb",)}
    begun = [(child(*words.split(), env=servers), expected) for words, expected in calls.items()]
    for one, expected in begun:
        out, err = one.communicate()
        assert one.returncode == 7, err
        assert out.split()[0] == str(expected[0]) and {*map(str, expected)} <= set(out.split())


def test_a_page_leaves_the_run_alone(servers, tmp_path, monkeypatch):
    "What is served for a run, in any way it can be named, is an explorer; the training notebook is not executed"
    run = tmp_path/"runs"/"mine"
    shutil.copytree(embedded("models/streets"), run, dirs_exist_ok=True)
    wrong = dict(cell_type="code", metadata={}, outputs=[], execution_count=None, source="raise SystemError")
    (run/"notebook.ipynb").write_text(json.dumps(dict(cells=[wrong], metadata={}, nbformat=4, nbformat_minor=5)))
    (tmp_path/"tmp").mkdir()
    for name in ("HOTSEG_RUNS", "PYTHONPATH"): monkeypatch.setenv(name, servers[name])
    before, env = tree(tmp_path/"runs"), servers | dict(TMPDIR=str(tmp_path/"tmp"))
    out, err = (one := child("lab", run/"notebook.ipynb", "--app", env=env)).communicate()
    assert one.returncode == 7, err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path/"tmp"))
    for page in (Path(out.split()[0]), page_of("mine"), page_of(run), page_of(run/"notebook.ipynb")):
        assert page.parent.parent == tmp_path/"tmp" and page.name == "mine.ipynb"
        code = "".join(read_json(page)["cells"][0]["source"])
        assert str(run) in code and "FeedbackPlayer" in code
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    *first, last = code.splitlines()
    exec("\n".join(first), names)
    assert eval(last, names).widget
    assert tree(tmp_path/"runs") == before


def test_lab_hears_signals(servers):
    one = child("lab", "mine", "--with=--wait", env=servers)
    while "ready" not in one.stdout.readline(): assert one.poll() is None
    one.send_signal(signal.SIGTERM)
    one.communicate()
    assert one.returncode == 43


def test_lab_refuses(servers, hotseg, monkeypatch):
    monkeypatch.setenv("HOTSEG_RUNS", servers["HOTSEG_RUNS"])
    for words, said in {("none",): "one of mine", ("half",): "hotseg run --resume half", ("none", "--app"): "no such",
                        ("../x",): "no such run or notebook", ("/none/x",): "no such run or notebook",
                        ("--port", "abc"): "'abc' is not a port"}.items():
        code, out, err = hotseg("lab", *words)
        assert (code, out) == (2, "") and said in err and "Traceback" not in err
    monkeypatch.setattr(sys.modules["hotseg.commands.lab"], "find_spec", lambda name: None)
    for words, said in {("lab",): "pip install jupyterlab", ("lab", "--app"): "pip install voila"}.items():
        code, _, err = hotseg(*words)
        assert code == 2 and said in err
