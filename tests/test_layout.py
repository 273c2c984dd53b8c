"""The house rules that can be counted: floors, function lengths, notebooks, tracked files, README."""
import ast
import json
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

import hotseg
from hotseg.core import read_json
from hotseg.docs import floor_violations, function_lengths, main, modules, readme_from, undocumented
from hotseg.results import SEED_COLUMNS, experiments, over_seeds, table

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT/"hotseg"
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUNS = sorted((ROOT/"nbs"/"runs").glob("*.ipynb"))


def settings():
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT/"settings.ini", encoding="utf8")
    return parser["DEFAULT"]


def cells(notebook): return json.loads(notebook.read_text(encoding="utf8"))["cells"]


def source(cell): return "".join(cell["source"])


def git(*words): return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)


in_git = pytest.mark.skipif(git("rev-parse", "--git-dir").returncode != 0, reason="not a git checkout")


# The package

def test_imports_point_down(): assert floor_violations(PACKAGE) == []


def test_functions_are_short():
    lengths = function_lengths(PACKAGE)
    assert lengths["median"] <= 8 and lengths["p90"] <= 20, lengths


def test_modules_are_rooms():
    "At most 350 exported lines; a longer room wants a second one"
    assert {m.name: m.lines for m in modules(PACKAGE) if m.lines > 350} == {}


def test_public_names_have_docstrings(): assert undocumented(PACKAGE) == []


def test_every_module_has_its_notebook():
    "A renamed or deleted notebook leaves no module behind, and no notebook exports into another's module"
    made = {m.notebook for m in modules(PACKAGE)}
    exporting = {p.name for p in NOTEBOOKS if any(re.search(r"^#\| *default_exp ", source(c), re.M) for c in cells(p))}
    assert made == exporting


def test_version_is_written_once():
    "settings.ini has it; the package and the citation agree, the changelog speaks of it"
    version = settings()["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT/"CITATION.cff").read_text(encoding="utf8"), re.M)
    assert hotseg.__version__ == version == cited[1]
    assert f"## {version} " in (ROOT/"CHANGELOG.md").read_text(encoding="utf8")


def test_no_wildcard_imports_no_yaml():
    found = {f"{m.name}: {ast.unparse(node)}" for m in modules(PACKAGE) for node in ast.walk(m.tree)
             if isinstance(node, (ast.Import, ast.ImportFrom))
             and {"*", "yaml"} & {*(a.name for a in node.names), getattr(node, "module", None)}}
    assert found == set()


UNSAFE = {"pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps", "eval", "exec", "yaml.load"}


def test_nothing_of_ours_is_pickled():
    "State is tensors and JSON: no pickle, no eval, no weights_only=False"
    calls = [(m.name, node) for m in modules(PACKAGE) for node in ast.walk(m.tree) if isinstance(node, ast.Call)]
    unsafe = [f"{name}:{c.lineno} {ast.unparse(c)[:80]}" for name, c in calls if ast.unparse(c.func) in UNSAFE
              or any(k.arg == "weights_only" and ast.unparse(k.value) != "True" for k in c.keywords)]
    assert unsafe == []


# The notebooks

def test_rooms_open_alike():
    "A title and a quote of one line, which nbdev makes the page's title and description"
    rooms = {p.name: source(cells(p)[0]).strip() for p in NOTEBOOKS if re.match(r"\d{3}_", p.name)}
    assert [name for name, text in rooms.items() if not re.fullmatch(r"# \S[^\n]*\n\n> [^\n]+", text)] == []


def test_numbers_are_unique():
    numbers = [p.name[:3] for p in NOTEBOOKS if re.match(r"\d{3}_", p.name)]
    assert sorted(numbers) == sorted(set(numbers))


def test_no_pictures_are_stored():
    heavy = [p.name for p in NOTEBOOKS for c in cells(p) for o in c.get("outputs", ())
             if any(kind.startswith("image/") and kind != "image/svg+xml" for kind in o.get("data", {}))]
    assert heavy == []


def test_no_widget_state_is_stored():
    assert [p.name for p in NOTEBOOKS if "widgets" in json.loads(p.read_text(encoding="utf8"))["metadata"]] == []


def parameter_faults(tagged):
    "What is wrong with the list of cells tagged `parameters`"
    if len(tagged) != 1: return [f"{len(tagged)} cells tagged parameters, 1 wanted"]
    lines = [line for line in source(tagged[0]).splitlines() if line.strip() and not line.startswith("#")]
    return [line for line in lines if not parameter_line(line)] + ([] if lines else ["no parameter"])


def parameter_line(line):
    "`name = value  # help`, the value a literal"
    if not re.match(r"[a-z]\w* = .+  # \S", line): return False
    try: statement, = ast.parse(line).body
    except (SyntaxError, ValueError): return False
    try: return isinstance(statement, ast.Assign) and ast.literal_eval(statement.value) is not Ellipsis
    except ValueError: return False


def tagged(notebook): return [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", ())]


def test_runs_have_parameters(): assert {p.name: f for p in RUNS if (f := parameter_faults(tagged(p)))} == {}


@pytest.mark.parametrize("text, good", [
    ("epochs = 1  # passes over the training part", True), ("sizes = (240, 176)  # width, height", True),
    ("# Parameters\nlr = 1e-3  # step", True), ("epochs = 1", False), ("epochs=1  # passes", False),
    ("a = 1; b = 2  # two", False), ("device = default_device()  # call", False), ("", False),
    ("name = 'a # b'", False)])
def test_the_parameter_rule_itself(text, good): assert (parameter_faults([dict(source=[text])]) == []) is good


def test_tags_survive_cleaning():
    "Without this key nbdev_clean deletes the tag, and papermill then trains with the defaults in silence"
    assert "tags" in settings()["allowed_cell_metadata_keys"].split()


# The repository

@in_git
def test_no_large_file_is_tracked():
    names = git("ls-files", "-z").stdout.split("\0")
    sizes = {name: (ROOT/name).stat().st_size for name in names if (ROOT/name).is_file()}
    assert len(sizes) > 5 and {n: s for n, s in sizes.items() if s > 1_000_000} == {}


@in_git
@pytest.mark.parametrize("path", [
    "nbs/runs/x.ipynb", "nbs/results/x.ipynb", "hotseg/data/x.py", "hotseg/runs.py", "data/README.md",
    "data/models/x.safetensors", "results/feedback.json", "results/figures/x.jpg", "data/splits/camvid/train.txt",
    "data/splits/msrc/tags.tsv", "data/small/game/images/00001.png", "results/bench/gap.json"])
def test_git_keeps_what_belongs_here(path):
    "An unanchored `runs/` or `data/` line in .gitignore would swallow these"
    assert git("check-ignore", "-q", "--no-index", path).returncode == 1


@in_git
@pytest.mark.parametrize("path", ["runs/a/run.json", "data/camvid/train/x.png", ".venv/bin/python", "_proc/x.ipynb"])
def test_git_leaves_out_what_does_not(path): assert git("check-ignore", "-q", "--no-index", path).returncode == 0


def test_quarto_settings_are_where_nbdev_reads_them():
    link = ROOT/"nbs"/"_quarto.yml"
    assert link.is_symlink() and link.resolve() == ROOT/"_quarto.yml"


def test_readme_is_in_step(): assert main(["--check", "--root", str(ROOT)]) == 0


def test_readme_shows_the_recorded_rows():
    "Every table of the README is what results/feedback.json gives today"
    readme = (ROOT/"README.md").read_text(encoding="utf8")
    recorded = experiments(read_json(ROOT/"results"/"feedback.json"))
    assert recorded and all(table(over_seeds(rows), SEED_COLUMNS) in readme for _, rows in recorded)


def test_recorded_rows_name_their_code():
    "A commit and a device, no uncommitted changes, no path of a machine"
    rows = read_json(ROOT/"results"/"feedback.json")
    assert all(len(r["commit"]) == 40 and r["device"] and not r["changed"] for r in rows)
    assert not any(k in r["parameters"] for r in rows for k in ("run_folder", "data_root"))


def links_of(page):
    "Relative targets of a Markdown page, without anchors"
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [t.split("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]


PAGES = [*sorted(p.name for p in ROOT.glob("*.md")), "data/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert [t for t in links_of(ROOT/page) if not ((ROOT/page).parent/t).exists()] == []


def test_readme_of_a_small_notebook(tmp_path):
    "Hidden cells stay out, links move up, a fence in the code gets a longer one"
    (tmp_path/"nbs").mkdir()
    (tmp_path/"settings.ini").write_text("[DEFAULT]\nlib_name = hotseg\n")
    made = [dict(cell_type="markdown", source=["# t\n", "[a](../data/README.md) [b](runs/x.ipynb#c)"]),
            dict(cell_type="code", source=["#| hide\n", "secret = 1"], outputs=[]),
            dict(cell_type="code", source=["#| echo: false\n", "quiet()"],
                 outputs=[dict(name="stdout", text=["41.5\n"])]),
            dict(cell_type="code", source=["page = '''\n", "```\n", "'''"],
                 outputs=[dict(data={"image/png": "AAAA", "text/plain": ["<Figure>"]})]),
            dict(cell_type="raw", source=["raw"])]
    (tmp_path/"nbs"/"index.ipynb").write_text(json.dumps(dict(cells=made)))
    text = readme_from(tmp_path/"nbs"/"index.ipynb")
    assert text.startswith("<!-- generated from nbs/index.ipynb by `python -m hotseg.docs`")
    assert "[a](data/README.md) [b](nbs/runs/x.ipynb#c)" in text and "```text\n41.5\n```" in text
    assert "````python\npage = '''\n```\n'''\n````" in text
    assert not any(word in text for word in ("secret", "quiet", "Figure", "AAAA", "raw", "#|"))
