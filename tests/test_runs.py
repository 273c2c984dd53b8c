"""A run from the command line, end to end: what it leaves, how it fails, how it goes on after a kill."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent/"hotseg"


def hotseg(*words, runs, **kwargs):
    "The command as a user calls it"
    return subprocess.run([COMMAND, *words], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "HOTSEG_RUNS": str(runs), "HOTSEG_DEVICE": "cpu"}, **kwargs)


def started(name, runs, **kwargs):
    "A run in the background, in a process group of its own"
    command = [COMMAND, "run", "feedback", "--name", name, "-p", "seed=7"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True,
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
    record = json.loads((folder/"run.json").read_text())
    assert record["status"] == "done" and record["parameters"]["seed"] == 7 and record["versions"]["torch"]


def test_the_table_names_every_arm(finished):
    called, folder = finished
    arms = [r["arm"] for r in json.loads((folder/"metrics.json").read_text())]
    assert arms == ["clean", "distorted", "fine-tuned", "restored", "feedback"]
    assert all(arm in called.stdout for arm in arms) and "make lab" in called.stdout


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
    _, folder = finished
    before = numbers(folder)
    again = hotseg("run", "feedback", "--name", "smoke", "-p", "seed=7", runs=folder.parent)
    assert again.returncode == 0, again.stderr
    assert "[clean] epoch" not in again.stdout, "nothing is trained twice"
    assert numbers(folder) == before


def test_a_folder_is_one_experiment(finished):
    _, folder = finished
    other = hotseg("run", "feedback", "--name", "smoke", "-p", "seed=8", runs=folder.parent)
    assert other.returncode == 2 and "other parameters" in other.stderr
    record = json.loads((folder/"run.json").read_text())
    assert record["parameters"]["seed"] == 7 and record["status"] == "done"


def test_two_runs_of_one_seed_are_equal(finished, tmp_path):
    _, folder = finished
    assert hotseg("run", "feedback", "--name", "twin", "-p", "seed=7", runs=tmp_path).returncode == 0
    assert numbers(tmp_path/"twin") == numbers(folder)


def test_a_killed_run_goes_on(finished, tmp_path):
    "Killed after the first training: the same command finishes with the numbers of the unbroken run"
    _, folder = finished
    process = started("killed", tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path/"killed/models/clean.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(.05)
    kill(process)
    assert json.loads((tmp_path/"killed/run.json").read_text())["status"] == "running"
    again = hotseg("run", "feedback", "--name", "killed", "-p", "seed=7", runs=tmp_path)
    assert again.returncode == 0, again.stderr
    assert numbers(tmp_path/"killed") == numbers(folder)


@pytest.mark.parametrize("words, said", [
    (("-p", "epochz=1"), "epochz"), (("-p", "seed=one"), "must be int"), (("-p", "seed"), "NAME=VALUE"),
    (("--name", "../out"), "leaves its folder"), (("--name", "."), "needs a name"),
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
    record = json.loads((tmp_path/"x/run.json").read_text())
    assert record["status"] == "failed" and "camvid" in record["error"]
    assert (tmp_path/"x/notebook.ipynb").exists(), "the executed notebook is kept"


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
    record = json.loads((folder/"run.json").read_text()) | dict(changed=True)
    (copy/"run.json").write_text(json.dumps(record))
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
