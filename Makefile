# make setup | demo | test | lint | types | clean. Needs Python 3.11 or newer with venv, a C++
# compiler and make; packages come from where pip is configured to take them.

PYTHON := $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
OUT := demo-output

.PHONY: setup demo test lint types clean
.DEFAULT_GOAL := setup

setup: $(VENV)/installed

# Constraints pin every version, torch's too: a torch 2.13.0 that is there (a CPU or a CUDA build)
# satisfies its pin and stays. DeepSpeed's own kernels are not built: training uses torch's Adam.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "setup: installing the packages of constraints.txt into $(VENV) (a few minutes once)"
	@test -x $(RUN) || "$(PYTHON)" -m venv $(VENV)
	@DS_BUILD_OPS=0 $(RUN) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# The real commands, shown as they run. Each does nothing where its work is done already. Nothing is
# downloaded: HF_HUB_OFFLINE makes sure of it.
demo: export HF_HUB_OFFLINE = 1
demo: setup
	$(RUN) -m demo.docstrings $(OUT)/docstrings
	$(RUN) -m pipeline refresh recipes/demo.yaml
	$(RUN) -m pipeline audit $(OUT)/store
	$(RUN) -m pretrain train recipes/demo.yaml
	@# The model card is written last; an export that is older than the run is made anew.
	@test $(OUT)/checkpoint/README.md -nt $(OUT)/run/metrics.jsonl || rm -rf $(OUT)/checkpoint
	test -e $(OUT)/checkpoint || $(RUN) -m pretrain export $(OUT)/run $(OUT)/checkpoint
	$(RUN) -m demo.summary recipes/demo.yaml $(OUT)/checkpoint $(OUT)/loss.png

# Some containers forbid it; then each of hundreds of processes compiles our sources for itself.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	@echo "test: every test but those that need a GPU, four files at a time, as many wait for Ray"
	@$(RUN) -m pytest -q -m "not gpu" -n 4 --dist loadfile --no-loadscope-reorder

lint: setup
	@echo "lint: ruff"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: setup
	@echo "types: mypy"
	@$(VENV)/bin/mypy

# The environment stays; `rm -rf .venv` takes it away too.
clean:
	@echo "clean: removing $(OUT) and caches"
	@rm -rf $(OUT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
