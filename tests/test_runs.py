"""A run from the command line, end to end: what it leaves, how it fails, how it goes on after any kind of end."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hotseg.core import HotsegError
from hotseg.folders import Run, status_of
from hotseg.runs import execute

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent/"hotseg"


def hotseg(*words, runs, **kwargs):
    "The command as a user calls it"
    return subprocess.run([COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "HOTSEG_RUNS": str(runs), "HOTSEG_DEVICE": "cpu"}, **kwargs)


def started(name, runs, *words, notebook="feedback", **kwargs):
    "A run in the background, in a process group of its own"
    command = [COMMAND, "run", notebook, "--name", name, "-p", "seed=7", *words]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True,
                            env={**os.environ, "HOTSEG_RUNS": str(runs), "HOTSEG_DEVICE": "cpu"}, **kwargs)


def resumed(name, runs, stderr=subprocess.DEVNULL, **kwargs):
    "The same, by its name alone"
    return subprocess.Popen([COMMAND, "run", "--resume", name], cwd=ROOT, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=stderr,
                            env={**os.environ, "HOTSEG_RUNS": str(runs), "HOTSEG_DEVICE": "cpu"}, **kwargs)


def kill(process):
    "The process and its kernel, at once"
    kernels = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, kernels)):
        with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
    process.wait()


def numbers(folder):
    "What must not depend on anything but the parameters"
    return [(r["arm"], r["miou"], r["ece"], r["iou"]) for r in json.loads((folder/"metrics.json").read_text())]


def until(true, process=None, seconds=300):
    "Wait until something is true, while a process lives"
    deadline = time.monotonic() + seconds
    while not true():
        assert (process is None or process.poll() is None) and time.monotonic() < deadline
        time.sleep(.05)


def record(folder):
    return json.loads((folder/"run.json").read_text()) if (folder/"run.json").exists() else {}


LESSON = """
seed = 0
gates = ""       # a folder: after its first epoch each training waits there for a file of its name
fail_on = -1     # the process that fails as long as there is no file `end`
shared = ""
run_folder = ""
====
import time
from pathlib import Path
from fastai.basics import Callback
from hotseg.core import seed_everything
from hotseg.folders import Run, trained
from hotseg.processes import gather_json, join_processes, rank
from hotseg.train.experiment import fit
from hotseg.train.learner import synth_learner

def is_open(name): return not gates or Path(gates, name).exists()

class Gate(Callback):
    order = 90
    def __init__(self, title): self.title = title
    def after_epoch(self):
        while not is_open(self.title): time.sleep(.02)
====
join_processes("cpu")
run = Run(run_folder, "lesson", dict(seed=seed, fail_on=fail_on, shared=shared))
====
rows = []
for title in ("one", "two"):
    seed_everything(f"{seed}/{title}")
    learn = synth_learner(rate=.05, cbs=Gate(title))
    trained(run, title, learn.model, lambda: fit(learn, 3, run, title), shared=dict(seed=seed, title=title))
    weights = [p.detach().flatten().tolist() for p in learn.model.parameters()]
    rows.append(dict(arm=title, miou=sum(map(sum, weights)), weights=weights, procs=len(gather_json(0))))
====
if rank() == fail_on and not is_open("end"): raise ValueError("the gate is shut")
gather_json("all are here")
rows = run.finish(rows)
print("finished", len(rows))
"""


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    "A training notebook of two trainings of a few milliseconds, which can be stopped at a gate"
    path = tmp_path_factory.mktemp("notebooks")/"lesson.ipynb"
    cells = [dict(cell_type="code", id=f"cell-{i}", metadata=dict(tags=[] if i else ["parameters"]), outputs=[],
                  source=text.strip(), execution_count=None) for i, text in enumerate(LESSON.split("====\n"))]
    about = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    path.write_text(json.dumps(dict(cells=cells, metadata=about, nbformat=4, nbformat_minor=5)))
    return path


@pytest.fixture(scope="module")
def unbroken(lesson, tmp_path_factory):
    "The lesson, run without a break, with a folder for shared networks"
    runs = tmp_path_factory.mktemp("lesson")
    called = hotseg("run", lesson, "--name", "unbroken", "-p", "seed=7", "-p", f"shared={runs}/shared", runs=runs)
    assert called.returncode == 0, called.stderr
    return called, runs/"unbroken"


def trains(folder, title):
    "Has this training ended an epoch?"
    return (folder/"metrics.jsonl").exists() and f'"training": "{title}"' in (folder/"metrics.jsonl").read_text()


def weights(folder):
    "The very weights of both trainings"
    return [r["weights"] for r in json.loads((folder/"metrics.json").read_text())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "One smoke run, shared by the tests that only look"
    runs = tmp_path_factory.mktemp("runs")
    return hotseg("run", "feedback", "--name", "smoke", "-p", "seed=7", runs=runs), runs/"smoke"


def test_a_run_leaves_a_whole_folder(finished):
    called, folder = finished
    assert called.returncode == 0, called.stderr
    for part in ("notebook.ipynb", "run.json", "log.txt", "metrics.jsonl", "metrics.json", "figures/story_0.jpg",
                 "models/feedback.safetensors"):
        assert (folder/part).stat().st_size > 0, part
    assert not list((folder/"state").iterdir()), "states of finished trainings are cleared away"
    told = record(folder)
    assert told["status"] == "done" and told["parameters"]["seed"] == 7 and told["versions"]["torch"]


def test_the_table_names_every_arm(finished):
    called, folder = finished
    arms = [r["arm"] for r in json.loads((folder/"metrics.json").read_text())]
    assert arms == ["clean", "distorted", "fine-tuned", "restored", "feedback"]
    assert all(arm in called.stdout for arm in arms) and "hotseg lab smoke" in called.stdout


def test_every_training_reports(finished):
    called, _ = finished
    for training in ("clean", "restored", "feedback", "finetuned"):
        assert f"[{training}] epoch 1/" in called.stdout


def test_progress_is_live(tmp_path):
    "The first training's line arrives while the run is still going"
    with started("live", tmp_path, stdout=subprocess.PIPE, text=True) as process:
        line = next(line for line in process.stdout if line.startswith("[clean] epoch"))
        assert process.poll() is None and not (tmp_path/"live/metrics.json").exists(), line
        kill(process)


def test_parameters_reach_the_kernel(finished):
    _, folder = finished
    cells = json.loads((folder/"notebook.ipynb").read_text())["cells"]
    injected = [c for c in cells if "injected-parameters" in c["metadata"].get("tags", [])]
    assert len(injected) == 1 and "seed = 7" in "".join(injected[0]["source"])


def test_a_finished_run_repeats_in_seconds_with_equal_numbers(finished):
    "The rows are shown again; they stay those of the code and the machine that made them"
    called, folder = finished
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}
    again = hotseg("run", "feedback", "--name", "smoke", "-p", "seed=7", runs=folder.parent)
    assert again.returncode == 0 and "done already" in again.stderr and f"delete {folder}" in again.stderr
    assert "[clean] epoch" not in again.stdout, "nothing is trained twice"
    assert again.stdout.strip() in called.stdout, "the same table"
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before}


def test_a_folder_is_one_experiment(finished):
    _, folder = finished
    other = hotseg("run", "feedback", "--name", "smoke", "-p", "seed=8", runs=folder.parent)
    assert other.returncode == 2 and "other parameters" in other.stderr
    assert record(folder)["parameters"]["seed"] == 7 and record(folder)["status"] == "done"


def test_two_runs_of_one_seed_are_equal(finished, tmp_path):
    _, folder = finished
    assert hotseg("run", "feedback", "--name", "twin", "-p", "seed=7", runs=tmp_path).returncode == 0
    assert numbers(tmp_path/"twin") == numbers(folder)


def test_a_killed_run_goes_on(finished, tmp_path):
    "Killed after the first training: its name is enough to finish with the numbers of the unbroken run"
    _, folder = finished
    process = started("killed", tmp_path, stdout=subprocess.DEVNULL)
    until(lambda: (tmp_path/"killed/models/clean.json").exists(), process)
    kill(process)
    until(lambda: status_of(tmp_path/"killed") == "stopped", seconds=60)
    assert record(tmp_path/"killed")["status"] == "running"
    again = hotseg("run", "--resume", "killed", runs=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "[clean] epoch" not in again.stdout
    assert numbers(tmp_path/"killed") == numbers(folder)


def test_a_run_survives_every_kind_of_end(lesson, unbroken, tmp_path):
    "Killed before its first cell, its kernel killed in one training, all of it killed in the next: the same weights"
    folder, gates = tmp_path/"tough", tmp_path/"gates"
    gates.mkdir()
    process = started("tough", tmp_path, "-p", f"gates={gates}", notebook=lesson, stdout=subprocess.DEVNULL)
    until(lambda: record(folder).get("status") == "starting", process)
    kill(process)
    until(lambda: status_of(folder) == "stopped", seconds=60)

    process = resumed("tough", tmp_path)
    until(lambda: trains(folder, "one"), process)
    os.kill(json.loads((folder/".lock").read_text())["pid"], signal.SIGKILL)
    assert process.wait(120) == 1
    assert status_of(folder) == "failed" and "kernel died" in record(folder)["error"]

    (gates/"one").touch()
    process = resumed("tough", tmp_path)
    until(lambda: trains(folder, "two"), process)
    kill(process)
    until(lambda: status_of(folder) == "stopped", seconds=60)
    assert not (folder/"metrics.json").exists() and "error" not in record(folder)

    (gates/"two").touch()
    last = hotseg("run", "--resume", "tough", runs=tmp_path)
    assert last.returncode == 0, last.stderr
    assert "[one] epoch" not in last.stdout and "[two] epoch" in last.stdout
    assert status_of(folder) == "done" and weights(folder) == weights(unbroken[1])
    assert not list((folder/"state").iterdir())
    epochs = [(r["training"], r["epoch"]) for r in map(json.loads, (folder/"metrics.jsonl").read_text().splitlines())]
    assert sorted(epochs) == [(title, epoch) for title in ("one", "two") for epoch in (1, 2, 3)]


def test_one_command_at_a_time_and_ctrl_c(lesson, tmp_path):
    "A second command is refused and told who is at work; Ctrl-C ends the kernel and says how to go on"
    words, folder = ["-p", f"gates={tmp_path}/gates"], tmp_path/"live"
    process = started("live", tmp_path, *words, notebook=lesson, stdout=subprocess.DEVNULL)
    until(lambda: trains(folder, "one"), process)
    assert status_of(folder) == "running"
    for call in ((lesson, "--name", "live", "-p", "seed=7", *words), ("--resume", "live")):
        second = hotseg("run", *call, runs=tmp_path)
        assert second.returncode == 2 and "going on already" in second.stderr and str(process.pid) in second.stderr
    kernel = json.loads((folder/".lock").read_text())["pid"]
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    with pytest.raises(ProcessLookupError): os.kill(kernel, 0)
    assert status_of(folder) == "stopped" and record(folder)["error"] == "interrupted"
    process = resumed("live", tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: status_of(folder) == "running", process)
    process.send_signal(signal.SIGTERM)
    assert "hotseg run --resume live" in process.communicate(timeout=120)[1] and process.returncode == 130
    assert status_of(folder) == "stopped"


def test_a_run_that_is_done_is_not_repeated(unbroken):
    _, folder = unbroken
    before = (folder/"run.json").read_text()
    again = hotseg("run", "--resume", "unbroken", "--json", runs=folder.parent)
    assert again.returncode == 0 and [r["arm"] for r in json.loads(again.stdout)] == ["one", "two"]
    assert (folder/"run.json").read_text() == before
    nearly = hotseg("run", "--resume", "unbrokn", runs=folder.parent)
    assert nearly.returncode == 2 and "one of unbroken" in nearly.stderr


def test_runs_share_a_network(lesson, unbroken):
    "The second run with the folder trains nothing, keeps copies, and knows which commit trained them"
    _, folder = unbroken
    words = ["-p", "seed=7", "-p", f"shared={folder.parent}/shared"]
    second = hotseg("run", lesson, "--name", "second", *words, runs=folder.parent)
    assert second.returncode == 0 and "] epoch" not in second.stdout
    assert weights(folder.parent/"second") == weights(folder)
    about = json.loads((folder.parent/"second/models/one.json").read_text())
    assert about["run"] == "unbroken" and about["commit"] in record(folder.parent/"second")["commits"]
    assert "shared" not in json.loads((folder/"metrics.json").read_text())[0]["parameters"]


def test_the_log_has_what_the_terminal_had(unbroken):
    "Every line once; nothing of the kernel's own"
    called, folder = unbroken
    printed = called.stdout.partition("\n\n")[0].splitlines()
    assert (folder/"log.txt").read_text().splitlines() == printed and printed[-1] == "finished 2"
    assert not called.stderr and "encryption" not in "".join(p.read_text() for p in folder.glob("warnings.txt"))


def test_two_processes_end_with_their_command(lesson, tmp_path):
    "torchrun does not notice that the command was killed; the processes do"
    folder = tmp_path/"killed"
    words = ["--procs", "2", "-p", f"gates={tmp_path}/gates"]
    process = started("killed", tmp_path, *words, notebook=lesson, stdout=subprocess.DEVNULL)
    until(lambda: trains(folder, "one"), process)
    process.kill()
    process.wait()
    until(lambda: status_of(folder) == "stopped", seconds=60)


def test_a_failing_process_is_named(lesson, tmp_path):
    "The first to fail is the cause; resumed, the run has as many processes as before"
    gates, folder = tmp_path/"gates", tmp_path/"two"
    gates.mkdir()
    for name in ("one", "two"): (gates/name).touch()
    words = ["--procs", "2", "-p", "seed=7", "-p", f"gates={gates}", "-p", "fail_on=1"]
    called = hotseg("run", lesson, "--name", "two", *words, runs=tmp_path)
    assert called.returncode == 1 and "on rank 1: cell 5: ValueError: the gate is shut" in called.stderr
    assert "rank 1" in record(folder)["error"] and status_of(folder) == "failed"
    assert "the gate is shut" in (folder/"state/rank-1.ipynb").read_text()
    (gates/"end").touch()
    again = hotseg("run", "--resume", "two", runs=tmp_path)
    assert again.returncode == 0, again.stderr
    rows = json.loads((folder/"metrics.json").read_text())
    assert [(r["arm"], r["procs"]) for r in rows] == [("one", 2), ("two", 2)] and record(folder)["procs"] == 2
    assert not list((folder/"state").iterdir()) and "epoch" not in again.stdout
    assert (folder/"log.txt").read_text().count("finished 2") == 1


def test_two_processes_make_one_run(finished, tmp_path):
    "The same arms, one notebook, one log"
    called = hotseg("run", "feedback", "--name", "pair", "--procs", "2", "-p", "seed=7", runs=tmp_path)
    assert called.returncode == 0, called.stderr
    alone, pair = (json.loads((folder/"metrics.json").read_text()) for folder in (finished[1], tmp_path/"pair"))
    assert [r["arm"] for r in pair] == [r["arm"] for r in alone] and all(r["images"] == 8 for r in pair)
    assert status_of(tmp_path/"pair") == "done" and [p.name for p in tmp_path.rglob("*.ipynb")] == ["notebook.ipynb"]
    assert called.stdout.count("[clean] epoch 1/1 done") == 1


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_named(lesson, tmp_path, monkeypatch):
    run = Run(tmp_path/"full", "lesson", {})
    monkeypatch.setattr("hotseg.folders.write_json", full)
    with pytest.raises(HotsegError, match="cannot be written(.|\n)*full(.|\n)*No space left"): run.finish([])
    monkeypatch.setattr("hotseg.runs.write_json", full)
    with pytest.raises(HotsegError, match="cannot be written(.|\n)*begun(.|\n)*No space left"):
        execute(lesson, "begun", runs=tmp_path)


def test_a_folder_that_cannot_be_is_named(lesson, tmp_path):
    (tmp_path/"file").touch()
    called = hotseg("run", lesson, "--name", "x", runs=tmp_path/"file")
    assert called.returncode == 2 and "cannot be written" in called.stderr and f"{tmp_path}/file/x" in called.stderr
    assert "Traceback" not in called.stderr


@pytest.mark.parametrize("words, said", [
    (("-p", "epochz=1"), "epochz"), (("-p", "seed=one"), "must be int"), (("-p", "seed"), "NAME=VALUE"),
    (("--name", "../out"), "leaves its folder"), (("--name", "."), "needs a name"),
    (("--procs", "0"), "needs a process"), (("--resume", "x"), "as it was begun"),
])
def test_wrong_requests_start_no_kernel(words, said, tmp_path):
    called = hotseg("run", "feedback", *words, runs=tmp_path)
    assert called.returncode == 2 and said in called.stderr and "Traceback" not in called.stderr
    assert not list(tmp_path.iterdir()), "nothing half made"


def test_the_published_form_runs_too(tmp_path):
    called = hotseg("run", "feedback", "--name", "published", "-p", "preset=faithful", "--json", runs=tmp_path)
    assert called.returncode == 0, called.stderr
    rows = json.loads(called.stdout.splitlines()[-1])
    assert [r["preset"] for r in rows] == ["faithful"] * 5 and all(r["images"] == 8 for r in rows)


def test_missing_data_names_what_was_looked_for(tmp_path):
    called = hotseg("run", "feedback", "--name", "x", "-p", "data=camvid", "-p", f"data_root={tmp_path}/none",
                    runs=tmp_path)
    assert called.returncode == 1 and "HOTSEG_DATA" in called.stderr and "camvid" in called.stderr
    assert record(tmp_path/"x")["status"] == "failed" and "camvid" in record(tmp_path/"x")["error"]
    assert (tmp_path/"x/notebook.ipynb").exists(), "the executed notebook is kept"


def test_a_mistake_does_not_take_the_name(lesson, tmp_path):
    "A run that failed before it had made anything gives its name to the corrected command"
    folder = tmp_path/"bad"
    (folder/"state/one").mkdir(parents=True)
    (folder/"run.json").write_text(json.dumps(dict(status="failed", commits=["older"], parameters=dict(seed=8))))
    called = hotseg("run", lesson, "--name", "bad", "-p", "seed=7", runs=tmp_path)
    assert called.returncode == 0, called.stderr
    assert record(folder)["parameters"]["seed"] == 7 and "older" not in record(folder)["commits"]


def test_outside_the_checkout_the_way_in_is_told(tmp_path):
    called = subprocess.run([COMMAND, "run", "segment"], cwd=tmp_path, capture_output=True, text=True)
    assert called.returncode == 2 and "inside the checkout" in called.stderr


def test_an_average_without_its_weights_is_not_made_up(tmp_path):
    "The network is there and its average is not: the run says so instead of scoring an untrained net"
    words = ["segment", "--name", "mean", "-p", "average=0.9"]
    folder = tmp_path/"mean"
    assert hotseg("run", *words, runs=tmp_path).returncode == 0
    row = json.loads((folder/"metrics.json").read_text())[1]
    assert row["arm"] == "segment, averaged" and isinstance(row["threads"], int) and row["procs"] == 1
    for path in (folder/"metrics.json", *folder.glob("models/segment_averaged.*")): path.unlink()
    again = hotseg("run", *words, runs=tmp_path)
    assert again.returncode == 1 and "the averaged weights are gone" in again.stderr


def test_a_notebook_without_its_tag_is_refused(tmp_path):
    notebook = json.loads((ROOT/"nbs/runs/feedback.ipynb").read_text())
    for cell in notebook["cells"]: cell["metadata"] = {}
    (tmp_path/"bare.ipynb").write_text(json.dumps(notebook))
    called = hotseg("run", str(tmp_path/"bare.ipynb"), runs=tmp_path)
    assert called.returncode == 2 and "tagged 'parameters'" in called.stderr


def test_export_refuses_runs_with_uncommitted_changes(finished, tmp_path):
    _, folder = finished
    copy = tmp_path/"smoke"
    copy.mkdir()
    (copy/"run.json").write_text(json.dumps(record(folder) | dict(changed=True)))
    (copy/"metrics.json").write_text((folder/"metrics.json").read_text())
    called = hotseg("results", "export", "feedback", runs=tmp_path)
    assert called.returncode == 2 and "uncommitted changes" in called.stderr


@pytest.mark.parametrize("area", ["metric", "warp", "labels"])
def test_bench_prints_what_it_promises(area, tmp_path):
    measured = json.loads(hotseg("bench", area, "--json", runs=tmp_path).stdout)
    assert set(measured) == {"area", "device", "threads", "commit", "changed", "rows"} and measured["rows"]
    for row in measured["rows"]:
        assert set(row) == {"name", "value", "unit", "peer", "peer_value", "ratio"}
        assert row["ratio"] == pytest.approx(row["value"] / row["peer_value"])


def test_a_kernel_that_never_began_is_given_another_port(tmp_path, monkeypatch):
    "A port that was free a moment ago may be taken: nothing has been executed, so it is tried again"
    import papermill
    from hotseg import runs
    tries = []

    def start(*args, **kwargs):
        tries.append(1)
        if len(tries) < 3: raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(papermill, "execute_notebook", start)
    assert runs._perform(tmp_path/"any.ipynb", tmp_path, {}) is None and len(tries) == 3
