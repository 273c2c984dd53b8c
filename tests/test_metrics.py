"The confusion matrix against Cityscapes' own script, plain numpy, and bad input"
import math

import cv2
import numpy as np
import pytest
import torch

from hotseg.core import HotsegError, numpy_rng
from hotseg.labels import CITYSCAPES, encode
from hotseg.metrics import Confusion, Evaluation, count_pairs_on_device, mean_iou

EVERY_ID = np.arange(34, dtype=np.uint8)


def stored_pair(key, plate=False):
    "Truth and prediction as stored ids: every id 0..33 in both, a third of the pixels right"
    rng = numpy_rng("test_metrics", key)
    truth = rng.permutation(np.resize(EVERY_ID, 96 * 64)).reshape(64, 96)
    guess = rng.permutation(np.resize(EVERY_ID, 96 * 64)).reshape(64, 96)
    guess = np.where(rng.random(truth.shape) < .33, truth, guess)
    if plate: truth[20:24, 30:50] = 255  # -1, the licence plate, as a byte
    return truth, guess


def ours(pairs):
    "Confusion over stored ids, by way of labels.encode"
    confusion = Confusion(len(CITYSCAPES))
    for truth, guess in pairs: confusion.add(encode(guess, CITYSCAPES), encode(truth, CITYSCAPES))
    return confusion


def theirs(pairs, folder, monkeypatch):
    "What evalPixelLevelSemanticLabeling says about the same maps, written as PNG"
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    for name, value in dict(evalInstLevelScore=False, quiet=True, JSONOutput=False).items():
        monkeypatch.setattr(official.args, name, value)
    files = [[str(folder/f"{kind}_{i}.png") for i in range(len(pairs))] for kind in ("truth", "guess")]
    for images, names in zip(zip(*pairs), files):
        for image, name in zip(images, names): cv2.imwrite(name, image)
    return official.evaluateImgLists(files[1], files[0], official.args)


def assert_same_scores(confusion, reference):
    iou = dict(zip(CITYSCAPES.classes, confusion.iou() / 100))
    assert iou == pytest.approx({n: reference["classScores"][n] for n in iou}, abs=1e-9, nan_ok=True)
    assert confusion.miou() / 100 == pytest.approx(reference["averageScoreClasses"], abs=1e-9)


def test_every_id_scores_as_in_the_official_script(tmp_path, monkeypatch):
    pairs = [stored_pair(k) for k in range(3)]
    confusion, reference = ours(pairs), theirs(pairs, tmp_path, monkeypatch)
    assert_same_scores(confusion, reference)
    assert 20 < confusion.miou() < 60
    scored = np.array(CITYSCAPES.stored_ids)
    counts = np.array(reference["confMatrix"])[scored]
    np.testing.assert_array_equal(confusion.matrix[:, :-1], counts[:, scored])
    np.testing.assert_array_equal(confusion.matrix[:, -1], counts.sum(1) - counts[:, scored].sum(1))


def test_absent_classes_score_as_in_the_official_script(tmp_path, monkeypatch):
    truth, guess = stored_pair("few")
    few = np.isin(truth, [7, 11, 0, 4, 26])
    pairs = [(np.where(few, truth, 23).astype(np.uint8), np.where(few, guess, 7).astype(np.uint8))]
    pairs = [(t, np.where(g == 28, 0, g).astype(np.uint8)) for t, g in pairs]  # no bus anywhere
    confusion, reference = ours(pairs), theirs(pairs, tmp_path, monkeypatch)
    assert_same_scores(confusion, reference)
    assert math.isnan(confusion.iou()[15]) and math.isnan(reference["classScores"]["bus"])


def test_minus_one_is_void(tmp_path, monkeypatch):
    "The script itself refuses id -1 (its own labels draw nothing there): same scores as with the plate as `unlabeled`"
    pairs = [stored_pair(k, plate=True) for k in range(2)]
    with pytest.raises(SystemExit): theirs(pairs, tmp_path, monkeypatch)
    drawn = [(np.where(t == 255, 0, t).astype(np.uint8), g) for t, g in pairs]
    assert_same_scores(ours(pairs), theirs(drawn, tmp_path, monkeypatch))


def plain_matrix(prediction, target, n, ignore=255):
    "The definition, pixel by pixel"
    matrix = np.zeros((n, n + 1), np.int64)
    for p, t in zip(prediction.ravel().tolist(), target.ravel().tolist()):
        if t != ignore: matrix[t, min(p, n)] += 1
    return matrix


@pytest.mark.parametrize("n, ignore", [(1, 255), (2, 255), (19, 255), (19, 19), (20, 255), (254, 255)])
@pytest.mark.parametrize("shape", [(7, 9), (3, 17, 5)])
def test_matrix_equals_the_definition(n, ignore, shape):
    rng = numpy_rng("test_metrics", n, ignore, shape)
    target = rng.choice([*range(n), ignore], shape)
    prediction = rng.integers(0, 256, shape)
    expected = plain_matrix(prediction, target, n, ignore)
    for kind in (np.uint8, np.int64, np.int32):
        confusion = Confusion(n, ignore).add(prediction.astype(kind), target.astype(kind))
        np.testing.assert_array_equal(confusion.matrix, expected)
    tensors = torch.tensor(prediction), torch.tensor(target)
    np.testing.assert_array_equal(Confusion(n, ignore).add(*tensors).matrix, expected)
    on_device = count_pairs_on_device(*tensors, n, ignore)
    np.testing.assert_array_equal(on_device[:-2].view(n, n + 1), expected)
    assert on_device[-2:].tolist() == [(target == ignore).sum(), 0]


def test_layout_does_not_matter():
    rng = numpy_rng("test_metrics", "layout")
    target, prediction = rng.integers(0, 4, (2, 40, 60), np.uint8)
    expected = Confusion(4).add(prediction, target).matrix
    np.testing.assert_array_equal(Confusion(4).add(prediction.T, target.T).matrix, expected)
    np.testing.assert_array_equal(Confusion(4).add(prediction[::-1, ::-1], target[::-1, ::-1]).matrix, expected)
    strided = np.zeros((40, 120), np.uint8)
    strided[:, ::2] = target
    np.testing.assert_array_equal(Confusion(4).add(prediction, strided[:, ::2]).matrix, expected)
    fortran = torch.tensor(target.T).T
    np.testing.assert_array_equal(Confusion(4).add(torch.tensor(prediction), fortran).matrix, expected)


def test_counts_stay_exact_beyond_float32():
    "One map of more than 2**24 pixels, nearly all in one bin"
    target = np.zeros((4100, 4100), np.uint8)
    target[0, 0] = 1
    matrix = Confusion(2).add(target, target).matrix
    assert matrix.tolist() == [[4100 * 4100 - 1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("prediction, target, words", [
    (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), "differ in shape"),
    (np.zeros((1, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), "differ in shape"),
    (np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 3, 4, 4), np.uint8), "whole numbers"),
    (np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8), "whole numbers"),
    (np.zeros((4, 4), np.uint8), np.full((4, 4), 19, np.uint8), "neither class nor void"),
    (np.zeros((4, 4), np.uint8), np.full((4, 4), 254, np.uint8), "neither class nor void"),
    (np.zeros((4, 4), np.int64), np.full((4, 4), -1), "outside 0..255"),
    (np.zeros((4, 4), np.int64), np.full((4, 4), 256 + 7), "outside 0..255"),
])
def test_bad_input_is_refused(prediction, target, words):
    confusion = Confusion(19)
    with pytest.raises(HotsegError, match=words): confusion.add(prediction, target)
    with pytest.raises(HotsegError, match=words): confusion.add(torch.tensor(prediction), torch.tensor(target))
    assert confusion.matrix.sum() == 0


def test_a_bad_image_leaves_the_batch_uncounted():
    target = np.zeros((2, 4, 4), np.uint8)
    target[1] = 77
    confusion = Confusion(19)
    with pytest.raises(HotsegError, match="neither class nor void"): confusion.add(np.zeros_like(target), target)
    assert confusion.matrix.sum() == 0


def test_an_ignored_class_is_not_a_class():
    with pytest.raises(HotsegError, match="void must lie behind"): Confusion(20, ignore=19)
    with pytest.raises(HotsegError, match="different classes"): Confusion(3).merge(Confusion(4))


def test_faithful_counts_absent_classes_as_zero():
    matrix = np.zeros((4, 5), np.int64)
    matrix[0, 0] = 10
    assert mean_iou(matrix) == 100
    assert mean_iou(matrix, "faithful") == pytest.approx(25)
    assert math.isnan(mean_iou(np.zeros((4, 5), np.int64)))


def test_evaluation_with_more_outputs_than_classes():
    "Twenty outputs on nineteen classes: the last is never a false alarm and always a miss"
    target = torch.arange(19).repeat(20)[:360].view(1, 18, 20)
    logits = torch.nn.functional.one_hot(target, 20).permute(0, 3, 1, 2).float() * 9
    logits[:, 19, :9] = 20
    results = Evaluation(CITYSCAPES).add(logits, target).results()
    confusion = Confusion(19).add(logits.argmax(1), target)
    assert (confusion.matrix[:, :-1].sum(0) == np.diagonal(confusion.matrix)).all()
    assert results["accuracy"] == 50 and results["miou"] == confusion.miou()
    assert results["auroc"] == pytest.approx(0)  # surer where it is wrong


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_counts_without_waiting_and_equals_cpu():
    rng = numpy_rng("test_metrics", "gpu")
    target, prediction = (torch.tensor(rng.integers(0, 19, (2, 64, 64))) for _ in range(2))
    on_gpu, pair = Confusion(19), (prediction.cuda(), target.cuda())
    on_gpu.add(*pair)
    torch.cuda.set_sync_debug_mode("error")
    try: on_gpu.add(*pair)
    finally: torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_array_equal(on_gpu.matrix, 2 * Confusion(19).add(prediction, target).matrix)
