"""Faster is still the same method: mixed precision, compilation, and two processes against one, for every method."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hotseg.core import HotsegError, seed_everything
from hotseg.processes import launch
from hotseg.train.learner import every_example
from hotseg.train.scale import Scale

HERE = Path(__file__).parent


def together(procs, *words):
    "What the program says, alone or under torchrun"
    options = dict(cwd=HERE, stderr=subprocess.PIPE, text=True)
    if procs == 1: process = subprocess.Popen([sys.executable, "together.py", *words], **options)
    else: process = launch(procs, "together", *words, **options)
    _, wrong = process.communicate(timeout=600)
    assert process.returncode == 0, wrong
    return json.loads(Path(words[1], "told.json").read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "Every method's example, trained by one process and by two"
    folders = [tmp_path_factory.mktemp(f"by{n}") for n in (1, 2)]
    return folders, [together(n, "trained", str(f), *every_example()) for n, f in zip((1, 2), folders)]


def numbers(scores):
    "A result's numbers, those of classes and groups too"
    nested = {f"{k}/{n}": v for k in ("iou", "by_group") for n, v in scores[k].items()}
    return {k: v for k, v in (scores | nested).items() if isinstance(v, float)}


@pytest.mark.parametrize("number, name", enumerate(every_example()))
def test_two_processes_are_one(both, number, name):
    "The same global batches: the same weights and losses, up to the order of sums; the same evaluation"
    (one, two), (alone, shared) = both
    a, b = (load_file(folder/f"{number}.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    for key in a: torch.testing.assert_close(b[key], a[key], rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    losses = [[row[1] for row in told[name]["log"]] for told in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert shared[name]["scores"]["images"] == alone[name]["scores"]["images"]
    assert numbers(shared[name]["scores"]) == pytest.approx(numbers(alone[name]["scores"]), rel=1e-6)


@pytest.mark.parametrize("name", every_example())
def test_both_processes_hold_the_same_weights(both, name):
    first, second = both[1][1][name]["sums"]
    running = [k for k in first if "running" in k or "num_batches" in k]
    assert {k: v for k, v in first.items() if k not in running} == {k: v for k, v in second.items() if k not in running}
    assert {k: first[k] for k in running} == pytest.approx({k: second[k] for k in running}, rel=1e-6)


def test_two_processes_resume_exactly(tmp_path):
    assert together(2, "resumed", str(tmp_path), "segmentation") == dict(segmentation=[])


def test_a_batch_that_two_cannot_share_is_refused():
    loader = every_example()["segmentation"]().dls.train
    with pytest.raises(HotsegError, match="shared equally"): next(loader.part(world=3))


def fitted(name, **kwargs):
    "An example after two epochs"
    seed_everything(1)
    learn = every_example()[name]()
    learn.scale = Scale(**kwargs)
    before = {k: p.detach().clone() for k, p in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    moved = [k for k, p in learn.model.named_parameters() if (p != before[k]).any()]
    return learn, moved


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", every_example())
def test_mixed_precision_trains(name, precision):
    "The same players move, all numbers stay finite, and the loss is the one of full precision, roughly"
    (full, moved), (mixed, moved_too) = fitted(name), fitted(name, precision=precision)
    assert moved_too == moved and all(p.isfinite().all() for p in mixed.model.state_dict().values())
    assert all(p.dtype == torch.float32 for p in mixed.model.parameters())
    assert mixed.recorder.values[-1][1] == pytest.approx(full.recorder.values[-1][1], rel=.25)
    assert int(mixed.method.skipped) <= 6


@pytest.mark.parametrize("name", every_example())
def test_compiled_and_channels_last_is_the_same_training(name):
    (plain, _), (compiled, _) = fitted(name), fitted(name, compile="aot_eager", channels_last=True)
    assert list(plain.model.state_dict()) == list(compiled.model.state_dict())
    assert compiled.recorder.values[-1][:2] == [pytest.approx(v, rel=.05) for v in plain.recorder.values[-1][:2]]


def test_an_overflow_halves_the_factor_and_is_counted():
    learn, _ = fitted("segmentation", precision="fp16")
    learn.method.loss_factor.factor = torch.tensor(2.**32)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.method.loss_factor.factor < 2.**32 and int(learn.method.skipped) > 0
    assert all(p.isfinite().all() for p in learn.model.state_dict().values())
