"""Tracking tools: TensorBoard for real; W&B and MLflow as strict stand-ins, and for real where they are installed."""
import importlib
import inspect
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from hotseg.core import HotsegError, seed_everything
from hotseg.train import track
from hotseg.train.checkpoint import fit_resumable
from hotseg.train.learner import synth_learner
from hotseg.train.track import Track, open_tool, trackers


def train(epochs, *callbacks, start=0):
    "A synthetic training of four batches an epoch; the learner"
    seed_everything(3)
    learn = synth_learner(cbs=list(callbacks))
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, start_epoch=start)
    return learn


def tracked(tool, folder, **options):
    return Track(tool, "clean", folder, dict(seed=3, data="scenes"), **{"every": 1, **options})


def complaints(heard):
    return [str(w.message) for w in heard if "does not take the numbers" in str(w.message)]


# --- TensorBoard, for real

def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(folder/"tensorboard"/"clean"))
    found.Reload()
    return found


def test_tensorboard_reads_back_what_was_trained(tmp_path):
    learn = train(2, tracked("tensorboard", tmp_path, pictures=picture))
    told = events(tmp_path)
    assert [e.step for e in told.Scalars("train/loss")] == list(range(8))
    assert [e.step for e in told.Scalars("epoch/miou")] == [3, 7]
    assert told.Scalars("epoch/miou")[-1].value == pytest.approx(learn.recorder.values[-1][-1], rel=1e-6)
    assert told.Scalars("epoch/train_loss")[-1].value == pytest.approx(learn.recorder.values[-1][0], rel=1e-6)
    assert told.Scalars("rate/network")[0].value == pytest.approx(.2)
    assert [e.step for e in told.Images("map")] == [3, 7]
    assert {"epoch/valid_loss", "epoch/images_per_s", "epoch/skipped"} <= set(told.Tags()["scalars"])
    assert b"scenes" in told.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_steps_do_not_double_when_a_training_resumes(tmp_path):
    first = tracked("tensorboard", tmp_path)
    train(3, first)                       # killed after its third epoch, say, with a checkpoint of the second
    again = tracked("tensorboard", tmp_path)
    again.restore(first.state())
    train(4, again, start=2)
    told = events(tmp_path)
    assert [e.step for e in told.Scalars("train/loss")] == list(range(16))
    assert [e.step for e in told.Scalars("epoch/miou")] == [3, 7, 11, 15]


# --- stand-ins with the signatures of wandb 0.31.0 and mlflow-skinny 3.17.2, and nothing beyond them

class WandbRun:
    def __init__(self, id): self.id, self.rows, self.axes, self.ended = id, [], [], False

    def define_metric(self, name, step_metric=None):
        self.axes.append((name, step_metric))

    def log(self, data, step=None, commit=None):
        assert not self.ended and step is None, "a finished run, or a step that W&B would drop when it goes back"
        assert "step" in data and all(isinstance(k, str) for k in data)
        self.rows.append(data)

    def finish(self, exit_code=None):
        assert not self.ended
        self.ended = True


def stand_in_wandb():
    wandb, runs = types.ModuleType("wandb"), []

    def init(project=None, dir=None, id=None, name=None, config=None, group=None, reinit=None, resume=None,
             settings=None):
        assert Path(dir).is_dir() and reinit == "create_new" and (id is None) == (resume is None)
        assert settings.keys() <= {"finish_timeout"} and resume in (None, "allow")
        runs.append(WandbRun(id or f"id{len(runs)}"))
        runs[-1].about = dict(project=project, name=name, config=config, group=group)
        return runs[-1]

    class Image:
        def __init__(self, data_or_path): assert data_or_path.shape[-1] == 3

    wandb.init, wandb.Image, wandb.runs = init, Image, runs
    return dict(wandb=wandb)


class Metric:
    def __init__(self, key, value, timestamp, step):
        assert re.fullmatch(r"[/\w.\- :]{1,250}", key) and isinstance(value, (int, float))
        assert isinstance(timestamp, int) and isinstance(step, int)
        self.key, self.value, self.step = key, value, step


class Param:
    def __init__(self, key, value):
        assert isinstance(value, str) and len(value) <= 6000
        self.key, self.value = key, value


class MlflowClient:
    experiments, runs = {}, {}

    def __init__(self, tracking_uri=None, registry_uri=None): "The one server of this test"

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        assert name not in self.experiments
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment_id, run_name=None):
        run_id = f"r{len(self.runs)}"
        self.runs[run_id] = dict(name=run_name, status="RUNNING", params={}, metrics=[], images=[])
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(metrics) <= 1000 and len(params) <= 100
        run = self.runs[run_id]
        assert run["status"] == "RUNNING"
        for p in params: assert run["params"].setdefault(p.key, p.value) == p.value, "params cannot change"
        run["metrics"] += [(m.key, m.step, m.value) for m in metrics]

    def log_image(self, run_id, image, key=None, step=None, synchronous=None):
        self.runs[run_id]["images"].append((key, step, image.shape))

    def update_run(self, run_id, status=None): self.runs[run_id]["status"] = status
    def set_terminated(self, run_id): self.runs[run_id]["status"] = "FINISHED"


def stand_in_mlflow(address=True):
    mlflow, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    mlflow.MlflowClient = type("MlflowClient", (MlflowClient,), dict(experiments={}, runs={}))
    mlflow.is_tracking_uri_set = lambda: address
    entities.Metric, entities.Param = Metric, Param
    return {"mlflow": mlflow, "mlflow.entities": entities}


def put(monkeypatch, modules):
    for name, module in modules.items(): monkeypatch.setitem(sys.modules, name, module)
    return next(iter(modules.values()))


def picture(learn): return dict(map=torch.zeros(4, 4, 3).byte().numpy())


def test_wandb_run_goes_on_after_a_resume(tmp_path, monkeypatch):
    wandb = put(monkeypatch, stand_in_wandb())
    first = tracked("wandb", tmp_path, pictures=picture)
    train(2, first)
    kept = first.state()
    again = tracked("wandb", tmp_path)
    again.restore(kept)
    train(3, again, start=2)
    began, resumed = wandb.runs
    assert began.id == resumed.id == kept["known"]
    assert began.ended and resumed.ended
    assert began.axes == [("step", None), ("*", "step")]
    assert began.about == dict(project="hotseg", name="clean", group=tmp_path.name, config=dict(seed=3, data="scenes"))
    assert [r["step"] for r in began.rows if "train/loss" in r] == list(range(8))
    assert [r["step"] for r in began.rows if "map" in r] == [3, 7]
    assert [r["step"] for r in resumed.rows if "train/loss" in r] == list(range(8, 12))


def test_mlflow_run_goes_on_after_a_resume(tmp_path, monkeypatch):
    mlflow = put(monkeypatch, stand_in_mlflow())
    first = Track("mlflow", "clean", tmp_path, {f"p{i}": "x" * 9999 for i in range(150)}, every=1, pictures=picture)
    train(2, first)
    again = Track("mlflow", "clean", tmp_path, {"p0": "another"}, every=1)
    again.restore(first.state())
    train(3, again, start=2)
    (run,) = mlflow.MlflowClient.runs.values()
    assert (run["status"], len(run["params"]), run["name"]) == ("FINISHED", 150, f"{tmp_path.name}/clean")
    assert [step for key, step, _ in run["metrics"] if key == "train/loss"] == list(range(12))
    assert [step for key, step, _ in run["metrics"] if key == "epoch/miou"] == [3, 7, 11]
    assert run["images"] == [("map", 3, (4, 4, 3)), ("map", 7, (4, 4, 3))]
    assert list(mlflow.MlflowClient.experiments) == ["hotseg"]


def test_a_tool_changed_between_two_calls_starts_a_run_of_its_own(tmp_path, monkeypatch):
    wandb = put(monkeypatch, stand_in_wandb())
    mlflow = put(monkeypatch, stand_in_mlflow())
    first = tracked("wandb", tmp_path)
    train(1, first)
    again = tracked("mlflow", tmp_path)
    again.restore(first.state())
    train(2, again, start=1)
    assert len(wandb.runs) == len(mlflow.MlflowClient.runs) == 1


class Killed(Exception): "Stands for kill -9"


@pytest.mark.parametrize("every, first", [(0., 6), (1e9, 4)], ids=["after every batch", "after every epoch"])
def test_fit_resumable_takes_the_trackers_along(every, first, tmp_path, monkeypatch):
    wandb = put(monkeypatch, stand_in_wandb())

    def kill(): raise Killed("machine lost")

    def attempt(*more):
        callbacks = [*trackers("tensorboard wandb", "clean", tmp_path, every=1), *more]
        seed_everything(3)
        learn = synth_learner(cbs=callbacks)
        with learn.no_bar(), learn.no_logging(): fit_resumable(learn, 4, tmp_path/"state", every=every)
    with pytest.raises(Killed): attempt(Last(5, kill))
    attempt()
    told, (began, resumed) = events(tmp_path), wandb.runs
    assert [e.step for e in told.Scalars("train/loss")] == list(range(16))
    assert [e.step for e in told.Scalars("epoch/miou")] == [3, 7, 11, 15]
    assert began.id == resumed.id
    assert [r["step"] for r in resumed.rows if "train/loss" in r] == list(range(first, 16))


def test_many_rows_go_to_mlflow_in_requests_of_its_size(tmp_path, monkeypatch):
    mlflow = put(monkeypatch, stand_in_mlflow())
    sink = open_tool("mlflow")
    sink.start("clean", tmp_path, {}, 0, "")
    sink.scalars([(step, {"train/loss": 1.}) for step in range(2500)])
    (run,) = mlflow.MlflowClient.runs.values()
    assert len(run["metrics"]) == 2500


# --- absent packages and unknown names, before any training

@pytest.mark.parametrize("tool, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"),
                                          ("mlflow", "mlflow")])
def test_missing_package_names_the_remedy(tool, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as an import sees a package that is not there
    with pytest.raises(HotsegError, match=r"(?s)needs the package " + tool + r".*pip install 'hotseg\[track\]'"):
        tracked(tool, tmp_path)


def test_a_folder_called_wandb_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path/"wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(HotsegError, match="pip install"):
        try: tracked("wandb", tmp_path)
        finally: sys.modules.pop("wandb", None)


def test_mlflow_without_server_or_database_is_refused(tmp_path, monkeypatch):
    put(monkeypatch, stand_in_mlflow(address=False))
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(HotsegError, match="MLFLOW_TRACKING_URI"):
        tracked("mlflow", tmp_path)


def test_unknown_tool_names_the_known_ones(tmp_path):
    with pytest.raises(HotsegError, match="tensorboard, wandb, mlflow"): tracked("neptune", tmp_path)
    with pytest.raises(HotsegError, match="neptune"): trackers("tensorboard neptune", "clean", tmp_path)


def test_importing_the_room_imports_no_tool():
    code = ("import sys, hotseg.train.track; "
            "print([m for m in ('tensorboard', 'wandb', 'mlflow') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a sink that fails never stops a training

class Notes:
    def __init__(self, fails=()): self.fails, self.calls, self.rows = fails, [], []

    def _call(self, name):
        self.calls.append(name)
        if name in self.fails: raise ConnectionError("no route to host")

    def start(self, name, folder, parameters, step, known):
        self._call("start")
        self.step = step
        return known or "new"

    def scalars(self, rows):
        self._call("scalars")
        self.rows += rows

    def picture(self, step, name, array): self._call("picture")
    def flush(self): self._call("flush")
    def stop(self): self._call("stop")


@pytest.mark.parametrize("where", ["start", "scalars", "picture", "flush", "stop"])
def test_a_failing_sink_costs_a_warning_and_nothing_else(where, tmp_path):
    alone = train(3)
    sink = Notes({where})
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        watched = train(3, tracked(sink, tmp_path, pictures=picture))
    assert len(complaints(heard)) == 1 and "metrics.jsonl" in complaints(heard)[0]
    assert sink.calls.count(where) == 1, "the tool is left alone for a minute"
    assert all(a.equal(b) for a, b in zip(alone.model.state_dict().values(), watched.model.state_dict().values()))
    assert watched.recorder.values == alone.recorder.values


def test_what_could_not_be_sent_arrives_later_and_in_order(tmp_path, monkeypatch):
    sink = Notes({"start"})
    watch = tracked(sink, tmp_path, seconds=0.)
    monkeypatch.setattr(track, "time", types.SimpleNamespace(monotonic=Clock(5.)))  # every look at the clock: 5 s later

    def mend(): sink.fails = ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(6, watch, At(9, mend))
    assert [step for step, row in sink.rows if "train/loss" in row] == list(range(24))
    assert (sink.step, sink.calls[-1]) == (0, "stop")


class Clock:
    def __init__(self, tick): self.now, self.tick = 0., tick

    def __call__(self):
        self.now += self.tick
        return self.now


class At(track.Callback):
    "Do something after a step"
    order = Track.order + 1

    def __init__(self, step, do): self.step_at, self.do = step, do

    def after_batch(self):
        if self.training and self.method.clock.step == self.step_at: self.do()


class Last(At):
    "The same, after a checkpoint may have been saved"
    order = 200


def test_a_slow_failure_is_followed_by_a_rest_ten_times_as_long(tmp_path, monkeypatch):
    watch = tracked(Notes(), tmp_path)
    clock = Clock(0.)
    monkeypatch.setattr(track, "time", types.SimpleNamespace(monotonic=clock))

    def hang():
        clock.now += 240
        raise TimeoutError("gave up")
    with pytest.warns(UserWarning, match="gave up"): watch._try(hang)
    assert watch.rest_until == 240 + 2400


# --- who tells, and when

def test_only_the_first_process_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "rank", lambda: 1)
    sink = Notes()
    watch = tracked(sink, tmp_path, seconds=0.)
    train(2, watch)
    watch.state()
    assert sink.calls == []


def test_losses_are_fetched_together_not_one_by_one(tmp_path):
    sink = Notes()
    watch = tracked(sink, tmp_path, every=2, seconds=1e9)
    seen = []
    train(2, watch, At(2, lambda: seen.append((list(sink.calls), [v for _, v in watch.kept]))))
    (calls, kept), = seen
    assert calls == [] and len(kept) == 2 and all(isinstance(v, torch.Tensor) for v in kept)
    assert sink.calls.count("scalars") == 2, "once an epoch"
    assert [step for step, row in sink.rows if "train/loss" in row] == [0, 2, 4, 6]


def test_state_sends_what_was_trained_so_far(tmp_path):
    sink = Notes()
    watch = tracked(sink, tmp_path, seconds=1e9)
    told = []
    train(1, watch, At(1, lambda: told.append((watch.state(), len(sink.rows)))))
    assert told == [(dict(tool="Notes", known="new"), 2)]


def test_two_tools_at_once(tmp_path, monkeypatch):
    wandb = put(monkeypatch, stand_in_wandb())
    both = trackers("tensorboard wandb", "clean", tmp_path, every=1)
    learn = train(1, *both)
    assert (learn.track_tensorboard, learn.track_wandb) == tuple(both)
    assert [r["step"] for r in wandb.runs[0].rows if "train/loss" in r] == \
        [e.step for e in events(tmp_path).Scalars("train/loss")]


# --- the true packages, where they are installed

def accepts(fake, true):
    "No argument of the stand-in is foreign to the true one"
    return set(inspect.signature(fake).parameters) <= set(inspect.signature(true).parameters)


def installed(name):
    "The true package, also when a stand-in was there before"
    try: return importlib.import_module(name)
    except ImportError: pytest.skip(f"{name} is not installed: pip install 'hotseg[track]'")


def test_stand_in_of_wandb_is_no_wider_than_wandb():
    wandb, fake = installed("wandb"), stand_in_wandb()["wandb"]
    assert accepts(fake.init, wandb.init) and accepts(fake.Image.__init__, wandb.Image.__init__)
    for name in ("define_metric", "log", "finish"): assert accepts(getattr(WandbRun, name), getattr(wandb.Run, name))


def test_stand_in_of_mlflow_is_no_wider_than_mlflow():
    mlflow, entities = installed("mlflow"), installed("mlflow.entities")
    for name in [n for n in vars(MlflowClient) if n[0] != "_" and callable(getattr(MlflowClient, n))] + ["__init__"]:
        assert accepts(getattr(MlflowClient, name), getattr(mlflow.MlflowClient, name)), name
    for kind in (Metric, Param): assert accepts(kind.__init__, getattr(entities, kind.__name__).__init__)


def test_true_wandb_offline(tmp_path, monkeypatch):
    installed("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    first = tracked("wandb", tmp_path, pictures=picture)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not take the numbers.*")
        train(1, first)
        again = tracked("wandb", tmp_path)
        again.restore(first.state())
        train(2, again, start=1)
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2 and all(f.name.endswith(first.known) for f in folders)
    assert all(next(f.glob("*.wandb")).stat().st_size > 1000 for f in folders)


def test_true_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = installed("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path/"store").as_uri())
    first = tracked("mlflow", tmp_path, pictures=picture)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not take the numbers.*")
        train(1, first)
        again = tracked("mlflow", tmp_path)
        again.restore(first.state())
        learn = train(2, again, start=1)
    client = mlflow.MlflowClient()
    run = client.get_run(first.known)
    assert again.known == first.known and run.info.status == "FINISHED"
    assert run.data.params == dict(seed="3", data="scenes")
    assert run.data.metrics["epoch/miou"] == pytest.approx(learn.recorder.values[-1][-1])
    assert sorted(m.step for m in client.get_metric_history(first.known, "train/loss")) == list(range(8))
    assert any(f.path.endswith(".png") for f in client.list_artifacts(first.known, "images"))
