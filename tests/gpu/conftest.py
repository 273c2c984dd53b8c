"""Tests for machines with a GPU: `make test-gpu`.

Without one they skip and say so. HOTSEG_TEST_DEVICE=cpu runs them on the CPU instead: what needs CUDA skips, the rest
is executed, so that a change that breaks these tests is seen before they meet a GPU."""
import importlib
import os
import pkgutil
from functools import cache

import pytest
import torch

import hotseg
from hotseg.core import seed_everything
from hotseg.train.learner import EXAMPLES
from hotseg.train.scale import Scale

DEVICE = os.environ.get("HOTSEG_TEST_DEVICE") or os.environ.get("HOTSEG_DEVICE") or "cuda"
MEASURED = []  # (what, precision, ms a step, peak MiB)


@pytest.fixture
def device():
    "Where to compute"
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no GPU here (torch.cuda.is_available() is False); HOTSEG_TEST_DEVICE=cpu runs this on the CPU")
    return DEVICE


@pytest.fixture
def cuda(device):
    "The same, for what has no meaning elsewhere"
    if not device.startswith("cuda"): pytest.skip("needs CUDA")
    return device


@pytest.fixture(autouse=True)
def same_arithmetic():
    "float32 in full, kernels that repeat themselves"
    kept = [(b, b.allow_tf32) for b in (torch.backends.cuda.matmul, torch.backends.cudnn)]
    for backend, _ in kept: backend.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    yield
    for backend, value in kept: backend.allow_tf32 = value
    torch.backends.cudnn.deterministic = False
    if torch.cuda.is_available(): torch.cuda.set_sync_debug_mode("default")


@cache
def examples():
    "A tiny learner of every method of the house, whichever room registers it"
    for room in pkgutil.walk_packages(hotseg.__path__, "hotseg."): importlib.import_module(room.name)
    return EXAMPLES


def pytest_generate_tests(metafunc):
    if "method" in metafunc.fixturenames: metafunc.parametrize("method", sorted(examples()))


@pytest.fixture
def make():
    "method name, device, Scale's arguments -> its example, always from the same weights"
    def build(method, device, *callbacks, **scale):
        seed_everything(5)
        learn = examples()[method](workers=0, device=device)
        learn.scale = Scale(**scale)
        learn.add_cbs(callbacks)
        return learn
    return build


@pytest.fixture
def measured():
    "Rows for the table at the end"
    return MEASURED


def pytest_terminal_summary(terminalreporter):
    if not MEASURED: return
    where = torch.cuda.get_device_name() if DEVICE.startswith("cuda") else "CPU (memory of the whole process)"
    terminalreporter.section(f"short trainings on {where}")
    for name, precision, ms, mib in MEASURED:
        terminalreporter.line(f"{name:24} {precision:10} {ms:8.2f} ms a step  {mib:8.1f} MiB")
