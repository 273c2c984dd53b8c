"""`hotseg results` from the command line: listing, comparing, publishing, verifying and repeating runs."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent/"hotseg"


def results(*words, cwd=ROOT, runs=None, verb="results"):
    "The command as a user calls it"
    more = {"HOTSEG_RUNS": str(runs)} if runs else {}
    return subprocess.run([COMMAND, verb, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "HOTSEG_DEVICE": "cpu", **more})


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


def a_row(run, arm="feedback", miou=40., **about):
    iou = dict(road=90., pole=miou / 2, tram=None)
    return dict(arm=arm, run=run, family="feedback", miou=miou, boundary_miou=20., image_miou_worst10=10., iou=iou,
                data="scenes", split="valid", images=8, device="cpu x86_64", changed=False, commit="a" * 40,
                parameters=dict(seed=0, k=3)) | about


def a_run(runs, name, rows=None, **record):
    "A run folder, finished when it has rows"
    write(runs/name/"run.json", dict(name=name, family="feedback", status="done", changed=False, commit="a" * 40,
                                     started="2026-11-21 12:00:00", parameters=dict(seed=0, k=3)) | record)
    if rows: write(runs/name/"metrics.json", rows)


# What is here

def test_list_never_stops_at_a_damaged_folder(tmp_path):
    a_run(tmp_path, "whole", [a_row("whole", "clean"), a_row("whole", miou=43.21)])
    a_run(tmp_path, "killed", status="running")
    write(tmp_path/"killed/metrics.jsonl", '{"training": "clean", "epoch": 4}\n{"training": "cl')
    write(tmp_path/"torn/run.json", '{"name": "to')
    write(tmp_path/"zeros/run.json", "\0" * 40)
    write(tmp_path/"odd/run.json", ["no", "record"])
    a_run(tmp_path, "rowless")
    write(tmp_path/"rowless/metrics.json", "[{")
    (tmp_path/"empty").mkdir()
    write(tmp_path/"shared/clean.safetensors", "")
    called = results("list", "--runs", tmp_path)
    assert called.returncode == 0, called.stderr
    lines = {line.split()[0]: line for line in called.stdout.splitlines()[2:]}
    assert set(lines) == {"whole", "killed", "torn", "zeros", "odd", "rowless", "empty"}
    assert "43.21" in lines["whole"] and "aaaaaaa" in lines["whole"]
    assert "stopped" in lines["killed"] and "clean, epoch 4" in lines["killed"]
    for name, why in (("torn", "run.json: not valid JSON"), ("zeros", "not valid JSON"), ("odd", "not the record"),
                      ("rowless", "metrics.json: not valid JSON"), ("empty", "run.json: file not found")):
        assert "damaged" in lines[name] and why in lines[name]


def test_list_as_json_by_family_and_arm(tmp_path):
    a_run(tmp_path, "a", [a_row("a", "clean", 41.), a_row("a")])
    a_run(tmp_path, "b", [a_row("b")], family="weak")
    facts = json.loads(results("list", "feedback", "--arm", "clean", "--json", runs=tmp_path).stdout)
    assert [(f["name"], f["status"], f["miou"], f["parameters"]["k"]) for f in facts] == [("a", "done", 41., 3)]


def test_list_shows_the_parameters_that_differ_or_those_asked_for(tmp_path):
    for k in (0, 3): a_run(tmp_path, f"k{k}", [a_row(f"k{k}")], parameters=dict(seed=0, k=k, match="time"))
    shown, asked = (results("list", "--runs", tmp_path, *more).stdout.splitlines()[0].split()
                    for more in ((), ("--columns", "match")))
    assert "k" in shown and "match" not in shown and "match" in asked and "k" not in asked


def test_list_of_nothing_says_how_to_begin(tmp_path):
    called = results("list", "--runs", tmp_path)
    assert called.returncode == 0 and "hotseg run" in called.stdout


# Which is better

def test_compare_says_what_differs(tmp_path):
    a_run(tmp_path, "k0", [a_row("k0", "clean", 45.), a_row("k0", miou=48., parameters=dict(seed=0, k=0))])
    other = dict(images=9, commit="b" * 40, device="H200")
    a_run(tmp_path, "k3", [a_row("k3", "clean", 45., **other), a_row("k3", miou=53., **other)])
    called = results("compare", "k0", "k3", runs=tmp_path)
    assert called.returncode == 0, called.stderr
    for said in ("images is 8 | 9", "aaaaaaa | bbbbbbb", "cpu x86_64 | H200"): assert said in called.stdout
    assert called.stdout.index("pole") < called.stdout.index("road"), "largest difference first"
    found = json.loads(results("compare", "k0", "k3", "--json", runs=tmp_path).stdout)
    assert found["parameters"] == {"k": [0, 3]}
    assert [line.get("miou_difference") for line in found["arms"]] == [None, 0., None, 5.]
    assert found["classes"][0] == {"class": "pole", "k0": 24., "k3": 26.5, "difference": 2.5}


def test_compare_gives_an_interval_over_seeds(tmp_path):
    for s in range(3):
        rows = [a_row(f"s{s}", arm, miou + s, parameters=dict(seed=s)) for arm, miou in
                (("fine-tuned", 50.), ("feedback", 52. + s / 10))]
        a_run(tmp_path, f"s{s}", rows)
    found = json.loads(results("compare", "s0", "s1", "s2", "--json", runs=tmp_path).stdout)
    line = found["seeds"][1]
    assert (line["arm"], line["n"]) == ("feedback", 3) and 1.5 < line["low"] < line["gain"] < line["high"] < 2.7


def test_compare_takes_single_and_recorded_rows(tmp_path):
    found = json.loads(results("compare", "demo/fine-tuned", "demo/feedback", "--json", runs=tmp_path).stdout)
    assert [line["arm"] for line in found["arms"]] == ["fine-tuned", "feedback"]
    assert found["warnings"] == [] and found["parameters"] == {}


@pytest.mark.parametrize("words, said", [
    (("demo",), "two different runs"), (("demo", "nosuch"), "demo-1"), (("demo", "demo-1", "--arm", "x"), "fine-tuned"),
])
def test_compare_refuses_in_words(words, said, tmp_path):
    called = results("compare", *words, runs=tmp_path)
    assert called.returncode == 2 and said in called.stderr and "Traceback" not in called.stderr


# Published numbers

@pytest.fixture
def checkout(tmp_path):
    "What `verify` looks at, in a folder of its own"
    top = tmp_path/"checkout"
    shutil.copytree(ROOT/"results", top/"results")
    (top/"nbs/results").mkdir(parents=True)
    for name in ("README.md", "settings.ini", "nbs/results/feedback.ipynb"): shutil.copy(ROOT/name, top/name)
    return top


def edit(path, old, new):
    text = path.read_text()
    assert old in text, f"{path} no longer holds {old}: choose another number to spoil"
    path.write_text(text.replace(old, new, 1))


def test_what_this_checkout_publishes_is_true():
    called = results("verify")
    assert called.returncode == 0, called.stdout + called.stderr


def test_verify_finds_spoiled_pages(checkout):
    "A number in README and one in a notebook's output, and a picture that is gone"
    row = next(r for r in json.loads((checkout/"results/feedback.json").read_text()) if r["run"] == "camvid-0")
    right, wrong = f"{row['miou']:.2f}", f"{row['miou'] + 1:.2f}"
    edit(checkout/"README.md", right, wrong)
    edit(checkout/"nbs/results/feedback.ipynb", f"{row['boundary_miou']:.2f}", "99.99")
    picture = next((checkout/"results/figures").glob("demo.jpg"))
    picture.unlink()
    called = results("verify", cwd=checkout)
    lines = called.stdout.splitlines()
    assert called.returncode == 1 and len(lines) == 3, called.stdout + called.stderr
    assert lines[0].startswith("nbs/results/feedback.ipynb: cell") and "99.99" in lines[0]
    assert lines[1].startswith("README.md: the rows say otherwise") and right in lines[1] and wrong in lines[1]
    assert lines[2] == "README.md: no such picture: results/figures/demo.jpg"


def test_verify_finds_rows_that_changed_under_the_pages(checkout):
    rows = json.loads((checkout/"results/feedback.json").read_text())
    rows[0]["miou"] += 1
    write(checkout/"results/feedback.json", rows)
    called = results("verify", "--json", cwd=checkout)
    assert called.returncode == 1, called.stdout + called.stderr
    assert {f["file"] for f in json.loads(called.stdout)} == {"README.md", "nbs/results/feedback.ipynb"}


def test_verify_finds_spoiled_rows(checkout):
    rows = json.loads((checkout/"results/feedback.json").read_text())
    rows[0].update(miou=431.5)
    rows[1].update(ece=float("nan"))
    rows[2].pop("auroc")
    rows[3].update(commit="main", changed=True)
    rows[4]["parameters"].update(net="/home/me/net.safetensors")
    write(checkout/"results/feedback.json", [*rows, rows[5]])
    called = results("verify", cwd=checkout)
    lines = called.stdout.splitlines()
    assert called.returncode == 1 and len(lines) == 7, called.stdout + called.stderr
    for line, row, said in zip(lines, (0, 1, 2, 3, 3, 4, 5), (
            "outside 0..100: miou = 431.5", "not a number: ece = nan", "field is missing: auroc", "not a commit: main",
            "uncommitted changes", "a path of one machine: parameters.net", "two rows of one run and arm")):
        name = f"{rows[row]['run']}/{rows[row]['arm']}"
        assert line.startswith("results/feedback.json: ") and name in line and said in line


def test_verify_finds_damaged_files_and_changed_benchmarks(checkout):
    write(checkout/"results/feedback.json", "[{")
    edit(checkout/"results/bench/gap.json", '"changed": false', '"changed": true')
    called = results("verify", cwd=checkout)
    assert called.returncode == 1 and called.stdout.count("\n") == 2, called.stdout + called.stderr
    for said in ("results/feedback.json: not valid JSON", "results/bench/gap.json: made with uncommitted"):
        assert said in called.stdout


# From a run to a published row, and back

TINY = '''from hotseg.folders import Run
run = Run(run_folder, "tiny", dict(seed=seed, gain=gain, device=device))
rows = run.finish([dict(arm="plain", miou=40. + seed), dict(arm="tuned", miou=40. + seed + gain)])'''
TAKES = 'seed = 0  # random\ngain = 1.5  # mIoU\ndevice = ""  # cpu or cuda\nrun_folder = ""  # of this run\n'


def notebook(takes=TAKES, code=TINY):
    cells = [dict(cell_type="code", metadata=dict(tags=tags), source=text, id=f"c{k}", outputs=[], execution_count=None)
             for k, (tags, text) in enumerate(((["parameters"], takes), ([], code)))]
    spec = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
    return dict(cells=cells, metadata=spec, nbformat=4, nbformat_minor=5)


def git(top, *words):
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *words], cwd=top, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    "A small checkout with a run, its exported rows, and then a commit that changed the code"
    top = tmp_path_factory.mktemp("history")/"top"
    write(top/"settings.ini", "[DEFAULT]\nlib_name = hotseg\n")
    write(top/".gitignore", "/runs/\n/results/\n")
    write(top/"nbs/runs/tiny.ipynb", notebook())
    git(top, "init")
    git(top, "add", ".")
    git(top, "commit", "-m", "first")
    run = results("tiny", "--name", "first", "-p", "seed=2", cwd=top, verb="run")
    assert run.returncode == 0, run.stdout + run.stderr
    exported = results("export", "tiny", cwd=top)
    assert exported.returncode == 0 and "2 rows (2 new, 0 replaced" in exported.stdout, exported.stderr
    return top


def test_export_tells_what_changed_and_keeps_the_order(history):
    before = (history/"results/tiny.json").read_text()
    again = results("export", "tiny", cwd=history)
    assert "0 new, 0 replaced, 2 unchanged, 0 gone" in again.stdout
    assert (history/"results/tiny.json").read_text() == before


def test_export_refuses_what_should_not_be_public(tmp_path):
    write(tmp_path/"settings.ini", "[DEFAULT]\nlib_name = hotseg\n")
    a_run(tmp_path/"runs", "bad", [a_row("bad", weights="/home/me/net")])
    called = results("export", "feedback", cwd=tmp_path)
    assert called.returncode == 2 and "a path of one machine" in called.stderr and "metrics.json" in called.stderr
    assert not (tmp_path/"results").exists()


def test_reproduce_gives_the_number_again(history):
    called = results("reproduce", "first", cwd=history)
    assert called.returncode == 0, called.stdout + called.stderr
    commit = git(history, "rev-parse", "--short=7", "HEAD")
    assert f"first, commit {commit}" in called.stdout and f"first-again, commit {commit}" in called.stdout
    assert called.stdout.count("yes") == 2
    assert json.loads((history/"runs/first-again/run.json").read_text())["parameters"]["seed"] == 2
    again = results("reproduce", "first", cwd=history)
    assert again.returncode == 2 and "has been done" in again.stderr, "a repetition is never a glance at the last one"


def test_reproduce_notices_other_numbers(history, tmp_path):
    write(tmp_path/"other.ipynb", notebook(code=TINY.replace("+ gain", "+ gain + .25")))
    def again(*more): return results("reproduce", *more, "--notebook", tmp_path/"other.ipynb", cwd=history)
    called = again("first/tuned", "--name", "other")
    assert called.returncode == 1 and called.stdout.splitlines()[-1].split()[:4] == ["tuned", "43.50", "43.75", "0.25"]
    near = again("first", "--name", "near", "--tolerance", "0.3", "--json")
    assert near.returncode == 0, near.stdout + near.stderr
    assert [line["difference"] for line in json.loads(near.stdout.splitlines()[-1])] == [0., .25]


def test_old_code_gives_old_numbers(history):
    "The notebook forgets a parameter and changes its result: only at the row's own commit it still holds"
    recorded = git(history, "rev-parse", "HEAD")
    write(history/"nbs/runs/tiny.ipynb", notebook(TAKES.replace("gain =", "boost ="), TINY.replace("gain", "boost")))
    git(history, "commit", "-am", "second")
    today = results("reproduce", "first", "--name", "today", cwd=history)
    assert today.returncode == 2 and "gain" in today.stderr and "--at-commit" in today.stderr
    assert not (history/"runs/today").exists()
    then = results("reproduce", "first", "--name", "then", "--at-commit", cwd=history)
    assert then.returncode == 0, then.stdout + then.stderr
    assert json.loads((history/"runs/then/run.json").read_text())["commit"] == recorded
    assert len(git(history, "worktree", "list").splitlines()) == 1, "the temporary worktree is gone"
    assert git(history, "rev-parse", "HEAD") != recorded and not git(history, "status", "--porcelain")


def test_a_run_that_fails_at_its_commit_leaves_no_worktree(history):
    rows = json.loads((history/"results/tiny.json").read_text())
    broken = [r | dict(run="broken", parameters=r["parameters"] | dict(seed="two")) for r in rows]
    write(history/"results/tiny.json", rows + broken + [r | dict(run="lost", commit="1" * 40) for r in rows])
    called = results("reproduce", "broken", "--at-commit", cwd=history)
    assert called.returncode == 1 and "must be int" in called.stderr and "failed at its commit" in called.stderr
    assert len(git(history, "worktree", "list").splitlines()) == 1
    lost = results("reproduce", "lost", "--at-commit", cwd=history)
    assert lost.returncode == 2 and "cannot be checked out" in lost.stderr and "Traceback" not in lost.stderr
    write(history/"results/tiny.json", rows)


def test_reproduce_names_the_rows_there_are(history):
    called = results("reproduce", "nosuch", cwd=history)
    assert called.returncode == 2 and "first" in called.stderr and "Traceback" not in called.stderr
