# hotseg: everything a newcomer types. Each target installs what it needs into .venv; a second call takes seconds.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without an NVIDIA GPU the tested CPU build is pinned; HOTSEG_TORCH_INDEX may name an index of CPU wheels (README, "Installation").
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
PIN     := $(if $(HAS_GPU),,-c constraints-cpu.txt)
INDEX   := $(if $(HOTSEG_TORCH_INDEX),--extra-index-url $(HOTSEG_TORCH_INDEX))
SEED   ?= 0
CHROMIUM := $(firstword $(foreach b,chromium chromium-browser google-chrome,$(shell command -v $(b) 2>/dev/null)))
.PHONY: install browser demo test test-gpu lab bench clean

install: $(VENV)/.installed
$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIN) $(INDEX) -e '.[dev]'
	touch $@

# The explorers are tested in a real browser; nothing is installed where there is one
browser:
ifeq ($(CHROMIUM),)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else echo "no Chromium: the browser tests will be skipped (with CI set they fail); install chromium or Google Chrome"; fi
endif

demo: install
	$(BIN)/hotseg run feedback --name $(if $(filter 0,$(SEED)),demo,demo-$(SEED)) -p size=quick -p seed=$(SEED) -p strength_px=12 -p correlation_px=24

test: install browser
	@state() { git status --porcelain; git diff | cksum; }; before="$$(state)"; \
	$(BIN)/nbdev_export && $(BIN)/nbdev_clean || exit 1; test "$$before" = "$$(state)" || \
	{ git status --short; echo "make test: notebooks and package were out of step; nbdev_export and nbdev_clean have mended them: look, commit, repeat"; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 1
	$(BIN)/ruff check hotseg tests nbs
	$(BIN)/mypy hotseg
	$(BIN)/python -m hotseg.docs --check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests

# On a machine with an NVIDIA GPU: parity with the CPU, and a short training of every method
test-gpu: install
	HOTSEG_DEVICE=cuda OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/gpu

lab: install
	$(BIN)/jupyter lab nbs/index.ipynb --notebook-dir=.

bench: install browser
	for area in metric warp labels decode pack augment scenes engine resume explore; do $(BIN)/hotseg bench $$area || exit 1; done

clean:
	rm -rf $(VENV) _docs _proc build
