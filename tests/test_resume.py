"""A training that is killed goes on as if nothing had happened: every method, real SIGKILLs, any number of loaders."""
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastai.basics import Callback

from hotseg.core import HotsegError
from hotseg.train.checkpoint import (Progress, checkpoints, fit_resumable, load_checkpoint, newest_readable,
                                     save_checkpoint, training_tensors)
from hotseg.train.learner import EXAMPLES, Method, every_example, synth_learner, synth_loaders
from hotseg.train.log import EarlyStop
from hotseg.train.players import adam_player

HERE = Path(__file__).parent


def lives(*words):
    "The program that trains and dies"
    called = subprocess.run([sys.executable, HERE/"lives.py", *words], capture_output=True, text=True, timeout=900)
    assert called.returncode == 0, called.stderr
    return json.loads(called.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def told(tmp_path_factory): return lives("broken_and_whole", str(tmp_path_factory.mktemp("lives")), *every_example())


@pytest.mark.parametrize("name", every_example())
def test_killed_and_resumed_is_bit_equal(told, name):
    "SIGKILL in the middle of an epoch: weights, optimisers, averages, random state and counters end up the same"
    assert told[name]["ends"] == [0, -signal.SIGKILL, 0, 0] and told[name]["broken"] == []


@pytest.mark.parametrize("name", every_example())
def test_loader_processes_change_nothing(told, name): assert told[name]["helped"] == []


def subclasses(kind): return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_method_has_an_example():
    "A method without one would be tested by nobody"
    covered = {type(make().method) for make in every_example().values()}
    trains = {k for k in subclasses(Method) if k.__module__.startswith("hotseg.") and k.step is not Method.step}
    assert trains - covered == set()


def test_fifty_kills_while_saving(tmp_path):
    "After each kill the newest checkpoint loads, and is the last one saved or the one just being saved"
    told = lives("fifty_deaths", str(tmp_path), "segmentation")["segmentation"]
    assert len(told["lives"]) == 50 and told["ends"] == [0, 0]
    assert all(life["loaded"] >= life["finished"] for life in told["lives"]), told["lives"]
    assert told["left_over"] > 5, "the kills did not hit the saving"
    assert told["differ"] == [] and told["tidy"]


def quiet_fit(learn, folder, epochs=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): return fit_resumable(learn, epochs, folder, **kwargs)


def test_a_full_disk_stops_the_training_and_spares_the_older_checkpoint(tmp_path):
    "A limit on the size of files is the disk that is full"
    learn = EXAMPLES["segmentation"]()
    quiet_fit(learn, tmp_path/"state")
    before = [p.name for p in checkpoints(tmp_path/"state")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        with pytest.raises(HotsegError, match="cannot be written"): quiet_fit(learn, tmp_path/"state", 3)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in checkpoints(tmp_path/"state")] == before
    assert not [*(tmp_path/"state").glob(".*")], "nothing half written"
    assert load_checkpoint(EXAMPLES["segmentation"](), newest_readable(tmp_path/"state")).epoch == 1


def test_a_folder_that_cannot_be_made_stops_the_training(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(HotsegError, match="cannot be written"):
        quiet_fit(EXAMPLES["segmentation"](), tmp_path/"file"/"state")


def test_no_readable_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    learn = EXAMPLES["segmentation"]()
    save_checkpoint(learn, tmp_path, Progress(1))
    for file in checkpoints(tmp_path)[0].glob("*.safetensors"): file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="checkpoint skipped"), pytest.raises(HotsegError, match="can be read"):
        quiet_fit(learn, tmp_path)


def test_another_methods_checkpoint_is_refused(tmp_path):
    save_checkpoint(EXAMPLES["feedback"](), tmp_path, Progress(1))
    learn = EXAMPLES["segmentation"]()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(HotsegError, match="other players"): quiet_fit(learn, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_a_training_that_stopped_early_stays_stopped(tmp_path):
    epochs = []
    for _ in range(2):
        learn = EXAMPLES["segmentation"](cbs=EarlyStop(1, least=1000.))
        quiet_fit(learn, tmp_path, 9)
        epochs.append(newest_readable(tmp_path).name)
    assert epochs == ["epoch-00002-batch-0000000"] * 2


def poisoned(batches):
    "A callback that turns some batches of an epoch into NaN"
    class Poison(Callback):
        order = 90
        def before_batch(self):
            if self.training and self.iter in batches: self.learn.xb = tuple(x * float("nan") for x in self.xb)
    return Poison()


@pytest.mark.parametrize("batches", [(0,), (0, 2), (3,)])
def test_bad_batches_spoil_neither_weights_nor_averages(batches):
    learn = EXAMPLES["segmentation"](decay=.9, cbs=poisoned(batches))
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    tensors = training_tensors(learn)
    assert all(t.isfinite().all() for part in ("player.network", "average.network") for t in tensors[part].values())
    assert learn.method.skipped == 2 * len(batches)


class OutOfStep(Method):
    "Two players that accumulate, one of which begins a batch later"
    def __init__(self, **players):
        super().__init__(**players)
        self.seen = 0

    def step(self, batch):
        self.seen += 1
        for name in ("early", "late")[:self.seen]:
            self.update(self.modules[name](batch).square().mean() * 2e4, name)
        return torch.zeros(())


def test_players_out_of_step_share_a_loss_factor():
    "Overflow in fp16 halves the factor however the players accumulate, and both learn in the end"
    torch.manual_seed(0)
    nets = {name: torch.nn.Linear(4, 4) for name in ("early", "late")}
    method = OutOfStep(**{name: adam_player(net, 1e-3, accumulate=2) for name, net in nets.items()})
    method.loss_factor.on = True
    before = {name: net.weight.detach().clone() for name, net in nets.items()}
    with torch.autocast("cpu", torch.float16):
        for batch in torch.randn(64, 8, 4):
            method.step(batch)
            method.settle()
    assert all((net.weight != before[name]).any() for name, net in nets.items())
    assert method.loss_factor.factor < 2**16 and method.skipped < 40


def test_two_stoppers_of_one_kind_keep_their_own_state(tmp_path):
    def learner(): return EXAMPLES["segmentation"](cbs=[EarlyStop(5, "miou"), EarlyStop(5, "valid_loss")])
    first, second = learner(), learner()
    quiet_fit(first, tmp_path, 2)
    quiet_fit(second, tmp_path, 2)
    def bests(learn): return [cb.best for cb in learn.cbs if isinstance(cb, EarlyStop)]
    assert bests(first) == bests(second) and bests(first)[0] != bests(first)[1]


def test_an_epoch_of_another_length_is_refused(tmp_path):
    quiet_fit(EXAMPLES["segmentation"](), tmp_path)
    other = synth_learner(.05, EXAMPLES["segmentation"]().model["network"], synth_loaders(batch=16))
    with pytest.raises(HotsegError, match="another length"): quiet_fit(other, tmp_path, 2)


def test_a_learner_that_is_done_can_be_fitted_again(tmp_path):
    learn = EXAMPLES["segmentation"]()
    quiet_fit(learn, tmp_path, 2)
    quiet_fit(learn, tmp_path, 2)
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert len(learn.recorder.values) == 3


def test_killed_between_the_last_batch_and_the_validation(tmp_path):
    "Nothing is left to train: the clock stands where it stood, and the epoch's numbers are those of the unbroken one"
    whole, rest = EXAMPLES["segmentation"](), EXAMPLES["segmentation"]()
    quiet_fit(whole, tmp_path, 1, every=0)
    shutil.rmtree(checkpoints(tmp_path)[-1])
    assert checkpoints(tmp_path)[-1].name == "epoch-00000-batch-0000004"
    quiet_fit(rest, tmp_path, 1, every=0)
    assert rest.method.clock == whole.method.clock and rest.method.clock.step == 3
    assert rest.recorder.values == whole.recorder.values
