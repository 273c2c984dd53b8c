"""Sweeps with real workers and real kills: no row lost, none made twice, and a repeated command goes on."""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from hotseg.core import HotsegError, read_json
from hotseg.folders import Lock
from hotseg.matrix import read_sweep
from hotseg.sweeps import row_states, run_sweep

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent/"hotseg"
UNITS = 6

# A training that keeps a journal: a line for each opening, each unit of work and the closing
PARAMETERS = '''
seed = 0         # which
preset = "good"  # good | bad: fails after two units
pause = .3       # of a unit of work, s
shared = ""      # folder of shared networks
run_folder = ""  # folder of this run
'''
TRAINING = f'''
import os, time
from pathlib import Path
from hotseg.folders import Run
run = Run(run_folder, "toy", dict(seed=seed, preset=preset, pause=pause))
state = run.folder/"state"/"unit"
def note(line):
    with open(run.folder/"journal.txt", "a") as f: f.write(f"{{line}}\\n")
note("opened")
for unit in range(int(state.read_text()) if state.exists() else 0, {UNITS}):
    time.sleep(pause)
    if preset == "bad" and unit == 2: raise ValueError("asked to fail")
    note(unit)
    state.with_suffix(".new").write_text(str(unit + 1)); os.replace(state.with_suffix(".new"), state)
run.finish([dict(arm="toy", miou=50.)])
note("closed")
'''
MATRIX = '''
notebook = "toy.ipynb"
name = "{preset}-s{seed}"
seeds = [0, 1, 2, 3]
'''
BATTERED = MATRIX + '''
[[list]]
preset = "bad"
[[list]]
preset = "good"
[shared]
net = ["seed"]
'''


def spec(folder, text=MATRIX):
    "A specification beside its notebook"
    cells = [dict(cell_type="code", id=f"c{i}", metadata=dict(tags=tags), outputs=[], execution_count=None,
                  source=text.strip().splitlines(keepends=True))
             for i, (tags, text) in enumerate([(["parameters"], PARAMETERS), ([], TRAINING)])]
    kernel = dict(name="python3", display_name="python3", language="python")
    (folder/"toy.ipynb").write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4,
                                                    nbformat_minor=5)))
    (folder/"toy.toml").write_text(text)
    return folder/"toy.toml"


@contextlib.contextmanager
def sweep(path, *words):
    "The command in the background, in a process group of its own, with its lines in a file"
    with open(path.parent/"lines.txt", "w") as out:
        process = subprocess.Popen([COMMAND, "sweep", path, *words], cwd=ROOT, stdout=out, stderr=out,
                                   start_new_session=True,
                                   env={**os.environ, "HOTSEG_RUNS": str(path.parent/"runs"), "HOTSEG_DEVICE": "cpu"})
    try: yield process
    finally:
        with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(path):
    return (path.parent/"lines.txt").read_text()


def journals(path):
    "Row name -> its journal"
    return {p.parent.name: p.read_text().split() for p in sorted(path.parent.glob("runs/*/journal.txt"))}


HANGS = 300  # seconds: no bar, only the end of a test that would never end


def wait_for(what, process, seconds=HANGS):
    end = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(.05)


def workers(process):
    "Pids of the worker processes of a sweep"
    return [c.pid for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]


def units(path):
    return sum(line.isdigit() for journal in journals(path).values() for line in journal)


def next_unit(path, process):
    "Wait until somebody has worked"
    seen = units(path)
    wait_for(lambda: units(path) > seen, process)


def states(path):
    return row_states(read_sweep(path), path.parent/"runs")


@pytest.fixture(scope="module")
def battered(tmp_path_factory):
    "A matrix made in two calls: in the first workers are killed at random moments, in the end all of them at once"
    path, chance = spec(tmp_path_factory.mktemp("battered"), BATTERED), random.Random()
    with sweep(path, "--workers", "2", "--only", "good*") as process:
        for _ in range(2):
            next_unit(path, process)
            time.sleep(chance.uniform(0, .6))
            os.kill(chance.choice(workers(process)), signal.SIGKILL)
        wait_for(lambda: "done" in states(path).values(), process)
        next_unit(path, process)
        os.killpg(process.pid, signal.SIGKILL)
    first = lines(path)
    with sweep(path, "--workers", "2", "--only", "good*") as process: assert process.wait(HANGS) == 0, lines(path)
    return path, first, lines(path)


def test_a_killed_worker_is_replaced(battered):
    _, first, _ = battered
    assert "lost its worker: the next one resumes it" in first and "failed" not in first.replace("0 failed", ""), first


def test_no_row_is_lost(battered):
    path, _, second = battered
    assert "rows: 4 of 8 exist; missing: bad-s0, bad-s1, bad-s2, bad-s3" in second
    assert {name for name, state in states(path).items() if state == "done"} == {f"good-s{i}" for i in range(4)}


def test_no_row_is_made_twice(battered):
    "All units, in order; repeated at most the one that a kill caught between journal and state; closed once"
    path, *_ = battered
    for name, journal in journals(path).items():
        made = [int(line) for line in journal if line.isdigit()]
        assert made == sorted(made) and set(made) == set(range(UNITS)), (name, journal)
        assert len(made) - UNITS < journal.count("opened"), (name, journal)
        assert "closed" not in journal[:-1], (name, journal)


def test_the_second_call_says_what_it_skipped(battered):
    _, first, second = battered
    done = int(second.split(" done already")[0].split()[-1])
    assert 1 <= done < 4 and f"{done} done already, {4 - done} to do" in second
    assert second.count(" started\n") == 4 - done


def test_another_call_does_nothing(battered):
    path, *_ = battered
    before = journals(path)
    said: list = []
    assert run_sweep(path, runs=path.parent/"runs", only="good*", tell=said.append)["exist"] == 4
    assert said == ["[sweep] 8 rows, 4 done already, 0 to do"] and journals(path) == before


def test_a_failing_row_is_named_and_the_command_exits_with_1(battered):
    path, *_ = battered
    with sweep(path, "--workers", "0", "--only", "bad-s0") as process: assert process.wait(HANGS) == 1
    assert "bad-s0 failed: " in lines(path) and "ValueError: asked to fail" in lines(path)
    assert "rows: 4 of 8 exist" in lines(path) and states(path)["good-s0"] == "done"
    assert states(path)["bad-s0"] == "failed"


def test_other_parameters_in_a_folder_stop_the_sweep(battered):
    path, *_ = battered
    other = path.with_name("other.toml")
    other.write_text(MATRIX + "[parameters]\npause = 0.2\n")
    with pytest.raises(HotsegError, match="other parameters"): run_sweep(other, runs=path.parent/"runs", workers=0)


def test_a_row_of_another_sweep_is_left_to_it(tmp_path):
    "Neither made twice nor failed; what is free is made"
    path, said = spec(tmp_path, MATRIX.replace(", 2, 3", "") + "[parameters]\npause = 0.0\n"), []
    (tmp_path/"runs/good-s0").mkdir(parents=True)
    other = Lock(tmp_path/"runs/good-s0/.command").hold()
    told = run_sweep(path, workers=0, runs=tmp_path/"runs", tell=said.append)
    other.release()
    assert (told["missing"], told["failed"], told["exist"]) == (["good-s0"], {}, 1)
    assert any("good-s0 runs elsewhere" in line for line in said) and not (tmp_path/"runs/good-s0/run.json").exists()


def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path):
    path = spec(tmp_path, MATRIX + "[parameters]\npause = 3.0\n")
    with sweep(path, "--workers", "1") as process:
        next_unit(path, process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(HANGS) == 130
    assert "[sweep] stopped at 0/4 done" in lines(path) and "what was running resumes" in lines(path)
    assert "Traceback" not in lines(path), lines(path)
    end = time.monotonic() + HANGS
    while states(path)["good-s0"] != "stopped": assert time.monotonic() < end; time.sleep(.2)


def test_a_cluster_that_is_there_already(tmp_path):
    "Rows go to workers that have what they need, and find the folder of shared networks"
    path = spec(tmp_path, MATRIX.replace(", 1, 2, 3", "") + "[needs]\nTOY = 1\n")
    with LocalCluster(n_workers=1, threads_per_worker=1, resources=dict(TOY=1), dashboard_address=None,
                      processes=False, protocol="tcp") as cluster:
        told = run_sweep(path, cluster.scheduler_address, runs=tmp_path/"runs")
    assert told["exist"] == told["of"] == 1 and not told["failed"]
    cells = read_json(tmp_path/"runs/good-s0/notebook.ipynb")["cells"]
    assert any(f'shared = "{tmp_path}/runs/shared"' in "".join(c["source"]) for c in cells)


def test_no_scheduler_at_that_address(tmp_path):
    with pytest.raises(HotsegError, match="no scheduler answers"):
        run_sweep(spec(tmp_path), "nonsense://127.0.0.1:1", runs=tmp_path/"runs")


@pytest.mark.parametrize("old, new, said", [
    ("seeds", "seed", "unknown word in a sweep"), ("[0, 1", "[0.5, 1", "seeds: parameter 'seed' must be int"),
    ("seeds", "grid.sede", "[grid] sede: unknown parameter"), ("-s{seed}", "", "4 rows of one name"),
    ("toy.ipynb", "tov.ipynb", "no such training notebook"), ("[0, 1, 2, 3]", "3", "'seeds' as list"),
    ("{preset}", "{arm}", "not made of {parameters}"), ("seeds", "seeds = [1]\n[parameters]\nrun_folder", "run_folder"),
    ("name =", "needs.GPU = 0\nname =", "above 0"), ("name =", "shared.net = ['sed']\nname =", "[shared] net"),
    ("name =", "name", "not a readable TOML file"),
])
def test_bad_specifications_start_nothing(old, new, said, tmp_path):
    path = spec(tmp_path, MATRIX.replace(old, new, 1))
    with pytest.raises(HotsegError) as caught: run_sweep(path, runs=tmp_path/"runs")
    assert said in str(caught.value) and str(path) in str(caught.value) and "fix: " in str(caught.value)
    assert not (tmp_path/"runs").exists()


@pytest.mark.parametrize("path", sorted((ROOT/"sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_our_own_sweeps_fit_their_notebooks(path):
    assert read_sweep(path).rows()
