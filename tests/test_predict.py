"""Pictures from anywhere through a model: sizes, formats, bad input, interruption, clips."""
import argparse
import json
import os
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
from PIL import Image

from hotseg.commands.model import add_model
from hotseg.commands.predict import add_predict, add_restore
from hotseg.core import HotsegError, embedded, read_json
from hotseg.data.media import Clip, ItemPictures, guard_output, open_media, write_clip
from hotseg.data.photos import read_picture
from hotseg.data.pictures import write_picture
from hotseg.data.scenes import StreetScenes
from hotseg.data.sets import decode_file, read_label
from hotseg.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN, VOC, decode, remap
from hotseg.predict import Predictor, RestorerAlone, about_model, flow_at, move, tiles
from hotseg.predicted import MARK, Answers, Judge, PredictJob, RestoreJob, work_through
from hotseg.saved import open_model

ROOT = Path(__file__).resolve().parents[1]


def refuses(call, *words):
    "`call` must raise HotsegError whose text holds every word"
    with pytest.raises(HotsegError) as caught: call()
    for word in words: assert str(word) in str(caught.value), f"{word!r} is not in: {caught.value}"


@pytest.fixture(scope="module")
def model(): return open_model("streets")


@pytest.fixture(scope="module")
def plain(): return open_model("streets", "clean")


@pytest.fixture
def photos(tmp_path):
    "Three streets in two folders, and their labels as Cityscapes ids"
    scenes = StreetScenes(3, 0, "test-predict", 60, 100)
    for i, name in enumerate(("a", "ulm/a", "ulm/b")):
        image, label = scenes.read(i)
        write_picture(tmp_path/"in"/f"{name}.png", image)
        write_picture(tmp_path/"truth"/f"{name}.png", decode(label, CITYSCAPES))
    return tmp_path/"in"


def call(*words):
    "A verb as the shell would call it"
    top = argparse.ArgumentParser("hotseg")
    verbs = top.add_subparsers()
    add_predict(verbs), add_restore(verbs), add_model(verbs)
    given = top.parse_args([str(w) for w in words])
    given.work(given)


def fails(*words):
    "A verb that ends with exit code 1"
    with pytest.raises(SystemExit) as left: call(*words)
    assert left.value.code == 1


def files(folder): return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# Sizes

@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (90, 1), (7, 5), (63, 200), (333, 77)])
def test_any_size(model, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    said = Predictor(model, rows=32)(image)
    assert said.labels.shape == said.confidence.shape == shape and said.restored.shape == image.shape
    assert said.labels.dtype == np.uint8 and (said.labels < 19).all() and 0 < said.confidence.min() <= 1


def test_a_large_street_for_real(model, tmp_path):
    "2048 x 1024 in, every file at that size out"
    image, label = StreetScenes(1, 0, "test-large", 1024, 2048).read(0)
    write_picture(tmp_path/"in.png", image)
    told = PredictJob(Predictor(model), open_media(tmp_path/"in.png"), tmp_path/"out", "in.png", "cityscapes-ids").run()
    found = read_label(tmp_path/"out"/"labels"/"in.png", CITYSCAPES)
    assert told["files"] == ["in"] and found.shape == (1024, 2048)
    assert (found == label)[label != 255].mean() > .6
    assert decode_file(tmp_path/"out"/"confidence"/"in.png").shape == (1024, 2048)
    assert read_picture(tmp_path/"out"/"restored"/"in.png").shape == image.shape


def test_tiles_cover_once_and_stay_small():
    for shape, scale in (((5000, 7000), 1.), ((1, 30000), 4.), ((8192, 8192), .9)):
        seen = np.zeros(shape, np.uint8)
        for tile in tiles(shape, scale):
            seen[tile.keep] += 1
            assert np.prod(tile.size) * scale**2 <= (1024 + 130) * (2048 + 130) * max(1, scale)
        assert (seen == 1).all()


def test_native_in_tiles(plain):
    image = StreetScenes(1, 0, "test-tiles", 256, 512).read(0)[0]
    whole, cut = (Predictor(plain, "native", tile=t)(image) for t in (2**21, 2**15))
    assert len(tiles(image.shape, 1., 2**15)) == 4 and (whole.labels == cut.labels).mean() > .94
    assert whole.restored is None


def test_a_restorer_in_front_of_another_network(model, plain):
    image = StreetScenes(1, 0, "test-front", 64, 128).read(0)[0]
    alone = RestorerAlone(model)(image)
    chained = Predictor(plain, restorer=model)(image)
    assert (chained.restored == alone.image).all()
    assert (chained.labels == Predictor(plain)(alone.image).labels).all()
    assert (move(image, alone.flow) == alone.image).all() and float(alone.flow.abs().max()) > 0


def test_offsets_scale_with_the_picture():
    flow = torch.randn(1, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(flow_at(flow, 8, 12), flow[0]) and flow_at(flow, 80, 36).abs().amax((1, 2))[1] > 5


# Formats

@pytest.mark.parametrize("form, space", [("trainids", CITYSCAPES_TRAIN), ("cityscapes-ids", CITYSCAPES),
                                         ("camvid", CAMVID)])
def test_labels_are_read_back_by_the_house(plain, photos, tmp_path, form, space):
    PredictJob(Predictor(plain), open_media(photos), tmp_path/"out", "in", form).run(limit=1)
    path = tmp_path/"out"/"labels"/"a.png"
    assert Image.open(path).mode == "L"
    own = Predictor(plain)(read_picture(photos/"a.png")).labels
    assert (read_label(path, space) == remap(own, CITYSCAPES, space)).all()


def test_voc_is_a_palette(photos, tmp_path, plain):
    "Of a model that speaks VOC; ids as ids, and the colours every VOC tool shows"
    class Says:
        model, restorer, rows, restores = type("M", (), dict(space=VOC, method=plain.method, name="m", arm="net",
                                                             record={}))(), None, 8, False
        def __call__(self, image):
            labels = np.full(image.shape[:2], 15, np.uint8)
            labels[0] = 255
            return type("P", (), dict(labels=labels, confidence=np.ones(labels.shape, np.float32), restored=None))()
    PredictJob(Says(), open_media(photos/"a.png"), tmp_path/"out", "a", "voc").run()
    path = tmp_path/"out"/"labels"/"a.png"
    assert Image.open(path).mode == "P" and set(np.unique(decode_file(path))) == {15, 255}
    assert decode_file(path, colours=True)[5, 5, 2::-1].tolist() == [192, 128, 128]
    assert (read_label(path, VOC) == np.array(Image.open(path))).all()


def test_classes_that_would_be_lost(plain, photos, tmp_path):
    def job(): return PredictJob(Predictor(plain), open_media(photos), tmp_path/"out", "in", "voc")
    refuses(job, "would be lost", "trainids")
    assert not (tmp_path/"out").exists()


# Scores

def test_scores_worst_first_and_together(plain, photos, tmp_path, capsys):
    call("predict", "streets", photos, tmp_path/"out", "--arm", "clean", "--labels", photos.parent/"truth", "--json")
    told = json.loads(capsys.readouterr().out)
    scores = read_json(tmp_path/"out"/"scores.json")
    values = [row["miou"] for row in scores["pictures"]]
    assert told["scores"] == scores and values == sorted(values) and scores["images"] == 3
    judge = Judge(CITYSCAPES, CITYSCAPES)
    own = {n: (Predictor(plain)(read_picture(photos/f"{n}.png")).labels,
               read_label(photos.parent/"truth"/f"{n}.png", CITYSCAPES)) for n in ("a", "ulm/a", "ulm/b")}
    assert scores == judge.results({n: judge.count(*pair) for n, pair in own.items()})
    for kind in ("colour/ulm/b.png", "truth/ulm/b.png", "errors/ulm/b.jpg"): assert (tmp_path/"out"/kind).is_file()


def test_labels_must_fit(photos, tmp_path):
    truth, out = photos.parent/"truth", tmp_path/"out"
    (truth/"ulm"/"b.png").rename(truth/"c.png")
    refuses(lambda: call("predict", "streets", photos, out, "--labels", truth), "without a label", "ulm/b")
    (truth/"c.png").rename(truth/"ulm"/"b.png")
    refuses(lambda: call("predict", "streets", photos, out, "--labels", truth, "--space", "msrc"), "would be lost")
    refuses(lambda: call("predict", "streets", photos, truth/"out", "--labels", truth), "inside its input")
    assert not out.exists()
    refuses(lambda: call("predict", "streets", photos, out, "--labels", tmp_path/"gone"), "folder not found", "gone")


def test_a_label_of_another_size_costs_one_picture(photos, tmp_path, capsys):
    "Nothing of that picture is written; mended, the same call makes it"
    truth, out = photos.parent/"truth", tmp_path/"out"
    good = (truth/"a.png").read_bytes()
    write_picture(truth/"a.png", np.zeros((9, 9), np.uint8))
    words = ("predict", "streets", photos, out, "--labels", truth)
    fails(*words)
    told = read_json(out/MARK)
    assert "differ in size" in told["failed"]["a"] and "differ in size" in capsys.readouterr().err
    assert told["status"] == "incomplete" and told["files"] == ["ulm/a", "ulm/b"]
    assert not [path for path in files(out) if Path(path).stem == "a" and "ulm" not in path]
    assert read_json(out/"scores.json")["images"] == 2
    (truth/"a.png").write_bytes(good)
    call(*words)
    told = read_json(out/MARK)
    assert (told["status"], told["failed"], len(told["files"])) == ("done", {}, 3)
    os.utime(truth/"a.png", ns=(1, 1))
    refuses(lambda: call(*words), "differs in: truth")


def test_two_truths_are_two_requests(photos, tmp_path):
    "Edited labels, another ending, another meaning of the ids"
    truth, out, toml = photos.parent/"truth", tmp_path/"out", tmp_path/"own.toml"
    for path in list(truth.rglob("*.png")): shutil.copy(path, path.with_name(f"{path.stem}_b.png"))
    rows = [f'[[class]]\nname = "{c}"\nid = {i}\n' for c, i in zip(CITYSCAPES.classes, CITYSCAPES.stored_ids)]
    toml.write_text("void = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]\n" + "".join(rows))
    words = ("predict", "streets", photos, out, "--labels", truth, "--space", toml)
    call(*words, "--limit", 1)
    refuses(lambda: call(*words, "--ending", "_b"), "differs in: ending, truth")
    text = toml.read_text()
    toml.write_text(text.replace('"road"', "@").replace('"sidewalk"', '"road"').replace("@", '"sidewalk"'))
    refuses(lambda: call(*words), "differs in: truth")
    assert read_json(out/MARK)["files"] == ["a"]


@pytest.mark.parametrize("more, said", [
    (("--labels", "x"), "its own labels"), (("--labels", "x", "--space", "voc"), "its own labels"),
    (("--ending", "_b"), "--ending is for --labels"), (("--space", "voc"), "--space is for --labels"),
    (("--restore-arm", "feedback"), "--restore-arm is for --restore")])
def test_words_that_would_say_nothing(photos, tmp_path, more, said):
    own = ("cityscapes/val", tmp_path/"out", "--root", embedded("small/streets"))
    refuses(lambda: call("predict", "streets", *own, *more), said)
    if "labels" in said and "for" not in said:
        refuses(lambda: call("predict", "streets", "held-out", tmp_path/"out", *more), said)
    else: refuses(lambda: call("predict", "streets", photos, tmp_path/"out", *more), said)
    refuses(lambda: call("predict", "streets", photos, tmp_path/"out", "--clean"), "--clean is for held-out")
    assert not (tmp_path/"out").exists()


# Going on

def test_goes_on_and_refuses_others(model, photos, tmp_path):
    out, media = tmp_path/"out", open_media(photos)
    job = PredictJob(Predictor(model), media, out, "in")
    assert job.run(limit=2)["files"] == ["a", "ulm/a"]
    stamp = (out/"labels"/"a.png").stat().st_mtime_ns
    seen = []
    told = PredictJob(Predictor(model), media, out, "in").run(say=lambda *now: seen.append(now[:3]))
    assert told["status"] == "done" and seen == [(2, 1, 3)] and (out/"labels"/"a.png").stat().st_mtime_ns == stamp
    refuses(lambda: PredictJob(Predictor(model, 48), media, out, "in"), "differs in: rows")
    refuses(lambda: RestoreJob(RestorerAlone(model), media, out, "in"), "another request")
    write_picture(photos/"a.png", np.zeros((5, 5, 3), np.uint8))
    refuses(lambda: PredictJob(Predictor(model), open_media(photos), out, "in"), "differs in: identity")


def test_a_picture_overwritten_at_the_same_size(model, photos, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photos/"a.bmp")
    (photos/"a.png").unlink()
    PredictJob(Predictor(model), open_media(photos), tmp_path/"out", "in").run(limit=1)
    size = (photos/"a.bmp").stat().st_size
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(photos/"a.bmp")
    assert (photos/"a.bmp").stat().st_size == size
    refuses(lambda: PredictJob(Predictor(model), open_media(photos), tmp_path/"out", "in"), "differs in: identity")


def test_a_limit_says_so_and_none_keeps_the_time(photos, tmp_path):
    words = ("predict", "streets", photos, tmp_path/"out")
    call(*words, "--limit", 1)
    assert read_json(tmp_path/"out"/MARK)["status"] == "limited"
    call(*words, "--limit", 0)
    told = read_json(tmp_path/"out"/MARK)
    assert told["status"] == "done" and len(told["files"]) == 3 and told["seconds"] > 0
    call(*words)
    assert read_json(tmp_path/"out"/MARK)["seconds"] == told["seconds"]
    call(*words, "--limit", 1)
    assert read_json(tmp_path/"out"/MARK)["status"] == "done"


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe\x00", b'{"request": 3}', b'{"failed": []}', b"null",
                                     b"{}"])
def test_a_damaged_manifest(photos, tmp_path, content):
    (tmp_path/"out").mkdir()
    (tmp_path/"out"/MARK).write_bytes(content)
    refuses(lambda: call("predict", "streets", photos, tmp_path/"out"), "out")
    assert (tmp_path/"out"/MARK).read_bytes() == content


def test_what_a_killed_clip_writer_left(photos, tmp_path):
    (tmp_path/"out").mkdir()
    call("predict", "streets", photos, tmp_path/"out", "--limit", 1)
    for name in (".overlay.mp4.4711.mp4", ".overlay.mp4.4711.tmp"): (tmp_path/"out"/name).touch()
    call("predict", "streets", photos, tmp_path/"out", "--limit", 1)
    assert not [path for path in files(tmp_path/"out") if path.startswith(".overlay")]


def test_other_work_in_such_a_folder(photos, tmp_path):
    "Any picture-wise work can use it, under a manifest of its own"
    media = open_media(photos)
    def answers(**request): return Answers(tmp_path/"out", request, media, "restored", mark="grey.json")
    mine = answers(what="grey")
    with mine.writing(): work_through(mine, lambda n, image: write_picture(mine.path("restored", n), image[..., 0]))
    assert answers(what="grey").done() == list(media.names) and (tmp_path/"out"/"grey.json").is_file()
    refuses(lambda: answers(what="red"), "differs in: what")


def test_other_weights_are_another_model(model):
    before = about_model(model)
    weight = next(model.method.modules.parameters())
    with torch.no_grad():
        weight += 1
        assert about_model(model) != before
        weight -= 1


@pytest.mark.parametrize("signal_, code", [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_killed_it_leaves_whole_files(tmp_path, signal_, code):
    "Asked to end, or killed: every file is whole, and the same call makes the rest"
    for i in range(40): write_picture(tmp_path/"in"/f"{i:02d}.png", np.full((64, 128, 3), 5 * i, np.uint8))
    words = [str(tmp_path/"in"), str(tmp_path/"out")]
    code_ = ("import sys, argparse; from hotseg.commands.predict import add_predict\n"
             "top = argparse.ArgumentParser(); add_predict(top.add_subparsers())\n"
             "given = top.parse_args(['predict', 'streets', *sys.argv[1:]])\n"
             "try: given.work(given)\nexcept KeyboardInterrupt: sys.exit(130)")
    child = subprocess.Popen([sys.executable, "-c", code_, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                             env=os.environ | dict(OMP_NUM_THREADS="1"))
    labels = tmp_path/"out"/"labels"
    while child.poll() is None and not (labels.is_dir() and len(list(labels.glob("*.png"))) >= 3): time.sleep(.01)
    child.send_signal(signal_)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "the same call goes on" in err or signal_ == signal.SIGKILL
    done = sorted(labels.glob("[0-9]*.png"))
    assert 3 <= len(done) < 40 and all(decode_file(p).shape == (64, 128) for p in done)
    told = read_json(tmp_path/"out"/MARK)
    assert told["status"] == ("writing" if signal_ == signal.SIGKILL else "stopped")
    call("predict", "streets", *words)
    told = read_json(tmp_path/"out"/MARK)
    assert told["status"] == "done" and len(told["files"]) == 40
    assert not list((tmp_path/"out").rglob(".*.tmp"))


# Clips

def test_a_clip_comes_back_as_a_clip(tmp_path):
    frames = [np.full((48, 96, 3), 20 * t, np.uint8) for t in range(5)]
    write_clip(tmp_path/"drive.mp4", frames, 12.5)
    call("predict", "streets", tmp_path/"drive.mp4", tmp_path/"out")
    call("restore", "streets", tmp_path/"drive.mp4", tmp_path/"restored", "--flow", "--limit", 2)
    made = Clip(tmp_path/"out"/"overlay.mp4")
    assert (len(made), made.fps, next(iter(made))[1].shape) == (5, 12.5, (48, 96, 3))
    assert files(tmp_path/"out"/"labels") == [f"drive-{i:06d}.png" for i in range(1, 6)]
    assert len(Clip(tmp_path/"restored"/"restored.mp4")) == 2 and len(files(tmp_path/"restored"/"flow")) == 2
    call("restore", "streets", tmp_path/"drive.mp4", tmp_path/"restored", "--flow")
    assert len(Clip(tmp_path/"restored"/"restored.mp4")) == 5


def test_clips_that_are_none(tmp_path):
    (tmp_path/"noise.mp4").write_bytes(bytes(range(256)) * 9)
    (tmp_path/"empty.mp4").touch()
    write_clip(tmp_path/"good.mp4", [np.zeros((64, 64, 3), np.uint8)] * 9, 25)
    (tmp_path/"cut.mp4").write_bytes((tmp_path/"good.mp4").read_bytes()[:300])
    for name in ("noise", "empty", "cut"):
        refuses(lambda: call("predict", "streets", tmp_path/f"{name}.mp4", tmp_path/"out"), f"{name}.mp4", "clip")
    assert not (tmp_path/"out").exists()


def test_a_clip_shorter_than_it_says(tmp_path, model):
    write_clip(tmp_path/"c.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, 25)
    clip = Clip(tmp_path/"c.mp4")
    clip.names += ("c-000004",)
    told = PredictJob(Predictor(model), clip, tmp_path/"out", "c").run()
    assert told["status"] == "incomplete" and "1 frame" in told["unread"] and len(told["files"]) == 3


class Promising:
    "A capture that promises other lengths, and cannot give one frame"
    promised, spoilt = 9, None
    def __init__(self, path): self.inner, self.at = cv2.VideoCapture(path), 0
    def isOpened(self): return self.inner.isOpened()
    def get(self, what): return self.promised if what == cv2.CAP_PROP_FRAME_COUNT else self.inner.get(what)

    def grab(self):
        self.at += 1
        return self.inner.grab()

    def retrieve(self): return (False, None) if self.at == self.spoilt else self.inner.retrieve()


@pytest.mark.parametrize("promised", [2, 9, -1])
def test_a_clip_that_promises_other_lengths(tmp_path, monkeypatch, capsys, promised):
    write_clip(tmp_path/"c.mp4", [np.full((64, 64, 3), 20 * t, np.uint8) for t in range(4)], 25)
    capture = cv2.VideoCapture
    class Wrapped(Promising):
        def __init__(self, path): self.inner, self.at, self.promised = capture(path), 0, promised
    monkeypatch.setattr(cv2, "VideoCapture", Wrapped)
    call("predict", "streets", tmp_path/"c.mp4", tmp_path/"out")
    told, err = read_json(tmp_path/"out"/MARK), capsys.readouterr().err
    assert told["status"] == "done" and len(told["files"]) == 4
    assert (promised < 0) == ("warning" not in told) and (promised < 0) == ("promises" not in err)


def test_a_spoilt_frame(tmp_path, monkeypatch):
    write_clip(tmp_path/"c.mp4", [np.full((64, 64, 3), 20 * t, np.uint8) for t in range(4)], 25)
    capture = cv2.VideoCapture
    class Wrapped(Promising):
        def __init__(self, path): self.inner, self.at, self.promised, self.spoilt = capture(path), 0, 4, 3
    monkeypatch.setattr(cv2, "VideoCapture", Wrapped)
    fails("predict", "streets", tmp_path/"c.mp4", tmp_path/"out")
    monkeypatch.undo()
    assert list(read_json(tmp_path/"out"/MARK)["failed"]) == ["c-000003"]
    call("predict", "streets", tmp_path/"c.mp4", tmp_path/"out")
    assert len(Clip(tmp_path/"out"/"overlay.mp4")) == 4


def test_ffmpeg_is_quiet_unless_asked(tmp_path, monkeypatch):
    (tmp_path/"noise.mp4").write_bytes(bytes(range(256)) * 20)
    code = "import sys; from hotseg.data.media import Clip\ntry: Clip(sys.argv[1])\nexcept ValueError: pass"
    env = {name: value for name, value in os.environ.items() if name != "OPENCV_FFMPEG_LOGLEVEL"}
    child = subprocess.run([sys.executable, "-c", code, str(tmp_path/"noise.mp4")], cwd=ROOT, env=env,
                           capture_output=True, text=True)
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "24")
    refuses(lambda: Clip(tmp_path/"noise.mp4"), "cannot read this clip")
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "24"


# Bad input

def bad_pictures(folder):
    "Files that no picture can be read from, and what must be said of each"
    folder.mkdir()
    cv2.imwrite(str(folder/"deep.png"), np.zeros((9, 9, 3), np.uint16))
    cv2.imwrite(str(folder/"thermal.tif"), np.zeros((9, 9), np.uint16))
    Image.new("1", (20000, 20000)).save(folder/"huge.png")
    Image.new("1", (40000, 2)).save(folder/"long.png")
    (folder/"text.jpg").write_text("hello")
    (folder/"empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    for name in ("cut.png", "cut.jpg"):
        cv2.imwrite(str(folder/name), noise)
        (folder/name).write_bytes((folder/name).read_bytes()[:-900])
    return {"deep.png": "8 bits", "thermal.tif": "8 bits", "huge.png": "too large", "long.png": "too large",
            "text.jpg": "not a picture", "empty.png": "not a picture", "cut.png": "cut short", "cut.jpg": "cut short"}


def test_bad_pictures_alone_and_in_a_folder(photos, tmp_path):
    for name, words in bad_pictures(tmp_path/"bad").items():
        refuses(lambda: call("predict", "streets", tmp_path/"bad"/name, tmp_path/"out"), name, words)
    assert not (tmp_path/"out").exists()
    refuses(lambda: call("predict", "streets", tmp_path/"bad", tmp_path/"out"), "cut")
    (photos/"zz").mkdir()
    shutil.copytree(tmp_path/"bad", photos/"zz", dirs_exist_ok=True)
    (photos/"zz"/"cut.png").unlink()
    fails("restore", "streets", photos, tmp_path/"out")
    told = read_json(tmp_path/"out"/MARK)
    assert len(told["failed"]) == 7 and "8 bits" in told["failed"]["zz/deep"] and len(told["files"]) == 3


def test_damage_that_shows_only_when_decoded(photos, tmp_path, capsys):
    "It costs one picture; mended, the same call makes it"
    good = (photos/"ulm"/"a.png").read_bytes()
    data = bytearray((photos/"ulm"/"a.png").read_bytes())
    middle = len(data) // 2
    data[middle:middle + 40] = bytes(40)
    (photos/"ulm"/"a.png").write_bytes(data)
    fails("predict", "streets", photos, tmp_path/"out")
    assert "ulm/a.png" in capsys.readouterr().err
    assert files(tmp_path/"out"/"labels") == ["a.png", "ulm/b.png"]
    assert list(read_json(tmp_path/"out"/MARK)["failed"]) == ["ulm/a"]
    fails("predict", "streets", photos, tmp_path/"out")
    (photos/"ulm"/"a.png").write_bytes(good)
    call("predict", "streets", photos, tmp_path/"out")
    assert read_json(tmp_path/"out"/MARK)["status"] == "done"


def test_a_photograph_with_a_clip_behind_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    Image.fromarray(image).save(tmp_path/"motion.jpg")
    data = (tmp_path/"motion.jpg").read_bytes()
    plain = read_picture(tmp_path/"motion.jpg")
    (tmp_path/"motion.jpg").write_bytes(data + bytes(range(256)) * 999)
    assert (read_picture(tmp_path/"motion.jpg") == plain).all()
    small = data[:2] + b"\xff\xe1\x00\x06\xff\xd8\xff\xd9" + data[2:]  # a thumbnail's end, early
    for cut in (small[:-900], small[:3000]):
        (tmp_path/"motion.jpg").write_bytes(cut)
        refuses(lambda: read_picture(tmp_path/"motion.jpg"), "cut short")


def test_a_large_picture_without_a_lecture(tmp_path, recwarn):
    Image.new("1", (16000, 8000)).save(tmp_path/"large.png")
    refuses(lambda: call("predict", "streets", tmp_path/"large.png", tmp_path/"out"), "too large", "67108864")
    assert not [w for w in recwarn if "Decompression" in str(w.category)]


def test_rows_have_a_bound(photos, tmp_path, capsys):
    fails("predict", "streets", photos/"a.png", tmp_path/"out", "--rows", 20000)
    assert "--rows 6345 or less" in capsys.readouterr().err


def test_what_is_converted_is_told(tmp_path):
    image = Image.fromarray(np.full((32, 48, 3), 90, np.uint8))
    for mode, name in (("L", "grey"), ("RGBA", "glass"), ("P", "palette"), ("1", "print")):
        image.convert(mode).save(tmp_path/f"{name}.png")
    call("predict", "streets", tmp_path, tmp_path.with_name("converted"))
    notes = read_json(tmp_path.with_name("converted")/MARK)["notes"]
    assert sorted(notes) == ["glass", "grey", "palette", "print"] and "three equal channels" in notes["grey"]


def test_sources_that_are_none(photos, tmp_path):
    out = tmp_path/"out"
    (tmp_path/"nothing").mkdir()
    refuses(lambda: call("predict", "streets", tmp_path/"nothing", out), "no picture in the folder")
    refuses(lambda: call("predict", "streets", "mars/val", out), "no such picture", "cityscapes")
    refuses(lambda: call("predict", "streets", "cityscapes/mars", out, "--root", ROOT/"data"/"small"/"streets"), "mars")
    (photos/"a.jpg").write_bytes((photos/"a.png").read_bytes())
    refuses(lambda: call("predict", "streets", photos, out), "two files with one name", "a.jpg")
    assert not out.exists()


def test_models_that_are_none(photos, tmp_path):
    out = tmp_path/"out"
    refuses(lambda: call("predict", "mars", photos, out), "mars", "streets")
    refuses(lambda: call("predict", "streets", photos, out, "--arm", "mars"), "mars", "clean")
    refuses(lambda: call("predict", "streets", photos, out, "--device", "mars"), "no such device")
    refuses(lambda: call("restore", "streets", photos, out, "--arm", "clean"), "does not restore", "feedback")
    refuses(lambda: call("predict", "streets", photos, out, "--format", "png"), "png", "cityscapes-ids")
    (tmp_path/"half").mkdir()
    (tmp_path/"half"/"run.json").write_text('{"name": "half", "status": "running", "family": "feedback"}')
    refuses(lambda: call("predict", tmp_path/"half", photos, out), "hotseg run --resume half")
    assert not out.exists()


def test_places_that_are_none(photos, tmp_path, monkeypatch):
    mine = tmp_path/"mine"
    mine.mkdir()
    (mine/"thesis.tex").touch()
    for out, words in ((photos, "over its input"), (photos/"ulm"/"out", "inside its input"),
                       (tmp_path, "over its input"), (mine, "other things"), (mine/"thesis.tex", "cannot be written"),
                       (mine/"thesis.tex"/"out", "cannot be written")):
        refuses(lambda: call("predict", "streets", photos, out), words)
    link = tmp_path/"link"
    link.symlink_to(photos)
    refuses(lambda: call("predict", "streets", photos, link/"out"), "inside its input")
    monkeypatch.setattr(os, "access", lambda *_: False)
    refuses(lambda: guard_output(photos, tmp_path/"closed", MARK), "cannot be written")
    monkeypatch.undo()
    def closed(*_): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "iterdir", closed)
    refuses(lambda: guard_output(photos, mine, MARK), "cannot be written", "Permission denied")
    monkeypatch.undo()
    refuses(lambda: call("predict", "streets", photos, "/proc/no/place"), "cannot be written")
    assert files(mine) == ["thesis.tex"]


def test_not_into_a_data_set(tmp_path):
    root = shutil.copytree(embedded("small/streets"), tmp_path/"set")
    before = files(root)
    home, = {path.parents[3] for path in root.rglob("leftImg8bit/*/*/*.png")}
    for out in (home/"out", home/"gtFine"/"out", home/"leftImg8bit"/"val"):
        refuses(lambda: call("predict", "streets", "cityscapes/val", out, "--root", root), "its input")
    assert files(root) == before
    words = ("predict", "streets", "cityscapes/val", tmp_path/"out", "--root", root)
    call(*words, "--limit", 1)
    for kind, what in (("gtFine/val/*/*_labelIds.png", "truth"), ("leftImg8bit/val/*/*.png", "identity, truth")):
        os.utime(next(home.glob(kind)), ns=(1, 1))
        refuses(lambda: call(*words), f"differs in: {what}")


def test_links(photos, tmp_path):
    "Links to pictures are followed, and their folder is input too; links to folders are not"
    far, src = tmp_path/"far", tmp_path/"links"
    far.mkdir(), src.mkdir()
    write_picture(far/"x.png", np.zeros((20, 30, 3), np.uint8))
    (src/"x.png").symlink_to(far/"x.png")
    (src/"gone.png").symlink_to(far/"gone.png")
    (src/"ulm").symlink_to(photos)
    refuses(lambda: call("predict", "streets", src, far/"out"), "inside its input")
    fails("predict", "streets", src, tmp_path/"out")
    told = read_json(tmp_path/"out"/MARK)
    assert told["files"] == ["x"] and list(told["failed"]) == ["gone"] and told["pictures"] == 2
    assert files(far) == ["x.png"]


def test_a_full_disk(model, photos, tmp_path, monkeypatch):
    media, replace = open_media(photos), os.replace
    def full(source, target):
        if "ulm" in str(target): raise OSError(28, "No space left on device")
        replace(source, target)
    monkeypatch.setattr(os, "replace", full)
    refuses(lambda: PredictJob(Predictor(model), media, tmp_path/"out", "in").run(), "No space left")
    monkeypatch.undo()
    assert not list((tmp_path/"out").rglob("*.tmp")) and files(tmp_path/"out"/"labels") == ["a.png"]
    assert PredictJob(Predictor(model), media, tmp_path/"out", "in").run()["status"] == "done"


def test_two_writers(model, photos, tmp_path):
    jobs = [PredictJob(Predictor(model), open_media(photos), tmp_path/"out", "in") for _ in range(2)]
    with jobs[0].answers.writing(): refuses(jobs[1].run, "another process is writing here")
    assert jobs[1].run()["status"] == "done"


@pytest.mark.parametrize("rows", ["0", "-3", "half", "99999"])
def test_rows_are_a_number_or_native(rows, capsys):
    with pytest.raises(SystemExit) as left: call("predict", "streets", "x", "y", f"--rows={rows}")
    assert left.value.code == 2 and "native" in capsys.readouterr().err


def test_held_out_scores_as_eval_does(tmp_path, capsys):
    "The same pictures through the same haze: the same numbers"
    call("eval", "streets", "--arm", "feedback", "--device", "cpu", "--json")
    row, words = json.loads(capsys.readouterr().out)["arms"][0], ("predict", "streets", "held-out")
    call(*words, tmp_path/"out", "--arm", "feedback")
    scores, told = read_json(tmp_path/"out"/"scores.json"), read_json(tmp_path/"out"/MARK)
    assert scores["images"] == row["images"] and abs(scores["miou"] - row["miou"]) < .01
    assert told["request"]["haze"]["strength_px"] > 0 and "run's haze" in capsys.readouterr().err
    refuses(lambda: call(*words, tmp_path/"out", "--arm", "feedback", "--clean"), "differs in: haze")
    call(*words, tmp_path/"clean", "--arm", "feedback", "--clean", "--limit", 1)
    assert read_json(tmp_path/"clean"/MARK)["request"]["haze"] is None and "haze" not in capsys.readouterr().err


def test_held_out(tmp_path, capsys):
    call("predict", "streets", "held-out", tmp_path/"out", "--limit", 2, "--format", "camvid")
    assert read_json(tmp_path/"out"/"scores.json")["space"] == "cityscapes"
    assert read_json(tmp_path/"out"/MARK)["merged"]["car"] == ["car", "truck", "bus", "train"]
    assert "stored as car: car, truck, bus, train" in capsys.readouterr().err
    assert len(files(tmp_path/"out"/"errors")) == 2


def test_items_are_read_once(monkeypatch):
    media, reads = ItemPictures(StreetScenes(2, 0, "test-items", 32, 64)), []
    read = media.items.read
    monkeypatch.setattr(media.items, "read", lambda i: (reads.append(i), read(i))[1], raising=False)
    for name, _ in media: media.truth(name)
    assert reads == [0, 1]
