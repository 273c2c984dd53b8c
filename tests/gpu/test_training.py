"""Every method trains on the GPU: precisions, guard, compilation, resume, processes, memory."""
import json
import math
import subprocess
import textwrap
import time
import warnings

import pytest
import torch
from fastai.basics import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from hotseg.core import HotsegError
from hotseg.processes import join_processes, launch
from hotseg.train.checkpoint import fit_resumable
from hotseg.processes import peak_memory
from hotseg.train.log import LineLog
from hotseg.train.track import Track


def train(learn, epochs, fit=None):
    with learn.no_bar(), learn.no_logging(): (fit or learn.fit)(epochs)
    return learn


def losses(learn):
    "The mean of each epoch's training losses: what a method learns from"
    at = list(learn.recorder.metric_names).index("train_loss") - 1
    return [float(values[at]) for values in learn.recorder.values]


def weights(learn):
    return torch.cat([p.detach().float().cpu().flatten() for p in learn.method.modules.parameters()])


def apart(a, b): return float((a - b).norm() / b.norm())


class Stopwatch(Callback):
    "Milliseconds a step, the first epoch left out"
    def before_fit(self): self.spent, self.steps = 0., 0

    def before_train(self): self.start = self._now()

    def after_train(self):
        if self.epoch: self.spent, self.steps = self.spent + self._now() - self.start, self.steps + self.n_iter

    def _now(self):
        if "cuda" in str(self.dls.device): torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    def ms(self): return self.spent / max(self.steps, 1)


# --- every method, every precision

@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_short_training_lowers_the_loss(method, precision, device, make, measured):
    if device.startswith("cuda"):
        if precision == "bf16" and not torch.cuda.is_bf16_supported(): pytest.skip("this GPU has no bf16")
        torch.cuda.reset_peak_memory_stats()
    watch = Stopwatch()
    learn = train(make(method, device, watch, precision=precision), 6)
    first, *_, last = losses(learn)
    skipped = int(learn.method.skipped)
    measured.append((method, precision, watch.ms(), float(peak_memory())))
    assert math.isfinite(last) and last < first, f"{first} -> {last}, {skipped} updates refused"
    assert skipped <= (8 if precision == "fp16" else 0), "fp16 may refuse a few while its factor settles"
    assert all(p.dtype == torch.float32 for p in learn.method.modules.parameters()), "weights stay float32"
    assert next(learn.method.modules.parameters()).device.type == torch.device(device).type
    assert peak_memory() > 0


def test_half_precision_stays_near_full_precision(method, device, make):
    full, half = (losses(train(make(method, device, precision=p), 4))[-1] for p in ("fp32", "bf16"))
    assert half == pytest.approx(full, rel=.15)


def test_channels_last_trains_alike(method, device, make):
    plain, last = (losses(train(make(method, device, channels_last=c), 2)) for c in (False, True))
    assert last == pytest.approx(plain, rel=.05)


# --- the guard

class Poison(Callback):
    "One batch of NaN"
    order = -500
    def __init__(self, step): self.at = step

    def before_batch(self):
        if self.training and self.epoch * self.n_iter + self.iter == self.at:
            self.learn.xb = tuple(x * math.nan if x.is_floating_point() else x for x in self.learn.xb)


def test_a_poisoned_batch_is_refused_and_counted(method, device, make):
    learn = train(make(method, device, Poison(2)), 2)
    assert int(learn.method.skipped) >= 1
    state = learn.method.modules.state_dict()
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point()), "running statistics included"
    for player in learn.method.players.values():
        if not player.optimiser: continue
        kept = [v for s in player.optimiser.state.values() for v in s.values() if torch.is_tensor(v)]
        assert all(v.isfinite().all() for v in kept)


ASKS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select", "aten::equal",
        "aten::unique_dim", "aten::_unique2"}


class NoQuestions(TorchDispatchMode):
    "Fails on what would make the CPU wait for a GPU, on any device"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name().split(".")[0] not in ASKS, f"{func.name()} in a step makes the CPU wait"
        return func(*args, **(kwargs or {}))


class Strict(Callback):
    "From the third batch on, a step and everything that looks on may not ask the device for a value"
    order = -1000
    def __init__(self): self.mode, self.steps = None, 0

    def before_batch(self):
        if not self.training or self.epoch * self.n_iter + self.iter < 2: return
        self.mode, self.steps = NoQuestions(), self.steps + 1
        self.mode.__enter__()
        if "cuda" in str(self.dls.device): torch.cuda.set_sync_debug_mode("error")

    def end(self):
        if not self.mode: return
        if torch.cuda.is_available(): torch.cuda.set_sync_debug_mode("default")
        self.mode.__exit__(None, None, None)
        self.mode = None


class End(Callback):
    order = 1000
    def __init__(self, strict): self.strict = strict
    def after_batch(self): self.strict.end()


class Silent:
    "A sink that takes everything"
    def start(self, *about): return "here"
    def scalars(self, rows): pass
    def flush(self): pass
    def stop(self): pass


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_step_waits_for_the_device(method, precision, device, make, tmp_path):
    strict = Strict()
    watchers = [strict, End(strict), Poison(3), Track(Silent(), "gpu", tmp_path, every=1, seconds=1e9),
                LineLog("gpu", tmp_path, every=1e9)]
    learn = make(method, device, *watchers, precision=precision)
    try: train(learn, 2)
    finally: strict.end()
    assert strict.steps == 2 * len(learn.dls.train) - 2
    assert int(learn.method.skipped) >= 1, "the poisoned batch was among them"


# --- resume

class Lost(Exception): "Stands for a lost machine"


class LoseAfter(Callback):
    order = 200
    def __init__(self, epochs): self.epochs = epochs

    def after_epoch(self):
        if self.epoch + 1 == self.epochs: raise Lost("machine lost")


class Count(Callback):
    def before_fit(self): self.batches = 0

    def after_batch(self): self.batches += self.training


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_training_is_the_unbroken_one(method, precision, device, make, tmp_path):
    straight = train(make(method, device, precision=precision), 4)
    def resumable(learn): return train(learn, 4, lambda epochs: fit_resumable(learn, epochs, tmp_path/"state"))
    with pytest.raises(Lost): resumable(make(method, device, LoseAfter(2), precision=precision))
    count = Count()
    resumed = make(method, device, count, precision=precision)
    torch.manual_seed(77)  # the checkpoint must bring the random state, the device's included
    resumable(resumed)
    assert count.batches == 2 * len(resumed.dls.train), "two of four epochs were left"
    assert apart(weights(resumed), weights(straight)) < (1e-3 if device.startswith("cuda") else 1e-12)
    assert float(resumed.method.loss_factor.factor) == float(straight.method.loss_factor.factor)


def test_a_state_saved_on_the_gpu_goes_on_on_the_cpu(method, cuda, make, tmp_path):
    with pytest.raises(Lost):
        learn = make(method, cuda, LoseAfter(1))
        train(learn, 2, lambda epochs: fit_resumable(learn, epochs, tmp_path/"state"))
    count = Count()
    learn = make(method, "cpu", count)
    train(learn, 2, lambda epochs: fit_resumable(learn, epochs, tmp_path/"state"))
    assert count.batches == len(learn.dls.train)
    assert torch.isfinite(weights(learn)).all()


# --- compilation

def backend(device): return "inductor" if device.startswith("cuda") else "aot_eager"


def test_a_compiled_training_is_the_plain_one(method, device, make):
    if device.startswith("cuda"): pytest.importorskip("triton", reason="inductor needs triton on a GPU")
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, compiled = (losses(train(make(method, device, compile=c), 2)) for c in ("", backend(device)))
    assert compiled == pytest.approx(plain, rel=2e-2)


# --- processes

PROGRAM = """
    import json, os, sys
    import torch
    import torch.distributed as dist
    from hotseg.core import seed_everything
    from hotseg.processes import gather, gather_json, join_processes, rank, sum_over, world
    from hotseg.train.learner import segmentation_example
    device = sys.argv[1]
    if int(os.environ["WORLD_SIZE"]) > 1: device = join_processes(device)
    else: dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    ones = torch.ones(3, device=device)
    dist.all_reduce(ones)
    seed_everything(5)
    learn = segmentation_example(device=device)
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    told = dict(backend=dist.get_backend(), device=str(next(learn.model.parameters()).device), world=world(),
                ones=ones.tolist(), loss=[float(v[1]) for v in learn.recorder.values],
                weights=[float(p.double().sum()) for p in learn.model.parameters()])
    everybody = gather_json(told["weights"])
    told["alike"] = all(w == everybody[0] for w in everybody)
    if rank() == 0: print("TOLD " + json.dumps(told))
    dist.destroy_process_group()
"""


def run_program(procs, device, folder):
    (folder/"gpu_program.py").write_text(textwrap.dedent(PROGRAM))
    with launch(procs, "gpu_program", device, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True) as process:
        told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return json.loads(next(line for line in told.splitlines() if line.startswith("TOLD "))[5:])


def test_one_process_under_torchrun(device, tmp_path):
    told = run_program(1, device, tmp_path)
    assert told["ones"] == [1., 1., 1.] and told["world"] == 1
    assert told["device"].startswith(torch.device(device).type)
    assert told["loss"][1] < told["loss"][0]
    if device.startswith("cuda"): assert "nccl" in told["backend"]


def test_two_processes_train_as_one(device, tmp_path):
    if device.startswith("cuda") and torch.cuda.device_count() < 2: pytest.skip("needs two GPUs")
    told, alone = (run_program(procs, device, tmp_path) for procs in (2, 1))
    assert told["ones"] == [2., 2., 2.] and told["alike"]
    assert told["loss"] == pytest.approx(alone["loss"], rel=.3), "dropout differs, the rest does not"


def test_more_processes_than_gpus_is_refused(cuda, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(torch.cuda.device_count() + 1))
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(HotsegError, match="fewer GPUs"): join_processes("cuda")


# --- memory

def test_a_longer_training_takes_no_more_memory(method, cuda, make):
    "Nothing of a step is kept for the next: losses and refused counts stay scalars"
    peaks = []
    for epochs in (2, 2, 6):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        train(make(method, cuda), epochs)
        peaks.append(torch.cuda.max_memory_allocated() - held)
    assert peaks[2] <= 1.05 * peaks[1] + 2**16, f"{peaks} bytes"
