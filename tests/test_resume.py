"""A training that is killed goes on as if nothing had happened: every method, real SIGKILLs, any number of loaders."""
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hotseg.core import HotsegError
from hotseg.train.checkpoint import (Progress, checkpoints, fit_resumable, load_checkpoint, newest_readable,
                                     save_checkpoint)
from hotseg.train.learner import EXAMPLES, Method, every_example

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
    from hotseg.train.log import EarlyStop
    epochs = []
    for _ in range(2):
        learn = EXAMPLES["segmentation"](cbs=EarlyStop(1, least=1000.))
        quiet_fit(learn, tmp_path, 9)
        epochs.append(newest_readable(tmp_path).name)
    assert epochs == ["epoch-00002-batch-0000000"] * 2
