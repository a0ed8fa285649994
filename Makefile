# The course's commands; `make help` lists them. Everything is installed into .venv and stays there.
PYTHON   ?= python3
LAB_ARGS ?=
NB       ?= $(wildcard notebooks/[0-9][0-9]_*.ipynb)
LOCK_ARGS ?=

BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY  := $(BIN)/python
# Test files are shared out among the cores; of one file the tests stay together.
DAILY := -m "not nightly"
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# One thread: more only get in each other's way here. The venv's own kernel, whatever else is there.
QUIET_MACHINE := OMP_NUM_THREADS=1 JUPYTER_PREFER_ENV_PATH=1
# Notebooks' time is watched: one that is late beside another runs once more alone.
NBVAL := $(QUIET_MACHINE) $(PY) -m pytest -p tools.notebook_times --nbval-lax --nbval-current-env \
  --nbval-cell-timeout 120 --durations=10
# What drives the browser; the browser itself is the system's.
PLAYWRIGHT := $(BIN)/uv pip install --quiet --python $(PY) --constraint requirements.lock \
  --requirement pyproject.toml --extra browser
FIRST  := notebooks/00_start_here.ipynb
LINTED := sff_teach sff_grade tests tools data results docs notebooks
STARTED := $(shell date +%s)

# Compiled files are kept, whatever this machine's habit; else every kernel compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test install unit reliability guard notebooks-test browser-test colab-test teacher-test versions-test offline-test colab-kit notebooks stamp assignments claims gallery site site-test lint format lock audit clean distclean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

lab: install  ## open JupyterLab at notebook 00; LAB_ARGS="--no-browser --port 8899" without a screen
	JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab --LabApp.default_url=/lab/tree/$(FIRST) \
	  --ServerApp.root_dir="$(CURDIR)" --ServerApp.ip=127.0.0.1 \
	  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

test: install lint unit guard notebooks-test  ## run every check, every test and every notebook
	@echo "make test: everything passed, in $$(( $$(date +%s) - $(STARTED) )) s with the installation."

install:  ## make .venv and install the locked packages; once done, do nothing
	@command -v $(PYTHON) >/dev/null || { echo "The course needs Python 3.10 to 3.14, and there is \
	no $(PYTHON) here; install one, or name it: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) tools/install.py

unit: install  ## the package's tests
	$(QUIET_MACHINE) $(PY) -m pytest $(DAILY) $(PARALLEL) tests --ignore=tests/notebooks --ignore=tests/browser \
	  --ignore=tests/colab --ignore=tests/teacher --ignore=tests/site --ignore=tests/faults --durations=10
	$(QUIET_MACHINE) $(PY) -m pytest tests/faults --durations=5

reliability: install  ## make every fault happen, and write docs/reliability.md from what is seen
	$(QUIET_MACHINE) SFF_WRITE=1 $(PY) -m pytest tests/faults --durations=5

guard: install  ## the notebooks' and the pages' form: outputs, links, alt text, headings, freshness
	$(QUIET_MACHINE) $(PY) -m pytest tests/notebooks --durations=5

notebooks-test: install  ## run every notebook, each cell a test
ifeq ($(strip $(NB)),)
	@echo "There are no notebooks to run yet."
else
	$(NBVAL) -n 2 --dist loadfile $(NB)
	@if [ -s build/late_notebooks ]; then echo "Once more, alone:" && $(NBVAL) $$(cat build/late_notebooks); fi
endif

browser-test: install  ## the explorers in a real JupyterLab and Chromium; pictures in artefacts/browser
	@$(PLAYWRIGHT)
	$(QUIET_MACHINE) $(PY) -m pytest tests/browser --durations=5

colab-test: install  ## notebooks, kit and explorers with Colab's versions, in .venv-colab
	$(PY) tools/colab_environment.py
	$(QUIET_MACHINE) $(PY) -m pytest tests/colab --durations=5

versions-test: install  ## tests and some notebooks with the newest and the oldest versions allowed
	$(PY) tools/version_sets.py newest
	$(PY) tools/version_sets.py floor

offline-test: install  ## make test with the network cut off (Linux)
	$(PY) tools/offline.py $(MAKE) --no-print-directory test

teacher-test: install  ## assignments and marks beside nbgrader's, in .venv-teacher
	$(PY) tools/teacher_environment.py
	$(QUIET_MACHINE) .venv-teacher/$(notdir $(BIN))/python -m pytest tests/teacher --durations=5

colab-kit: install  ## pack dist/sff_teach-…-kit.zip for a class without a hosted repository
	$(PY) tools/colab_kit.py

notebooks: install  ## run the notebooks in place and keep their outputs; NB=notebooks/05_….ipynb for one
	$(QUIET_MACHINE) $(PY) tools/run_notebooks.py $(NB)
	$(PY) tools/gallery.py
	$(PY) results/notebook_times.py

stamp: install  ## write the bootstrap cell and the Colab links in, without running notebooks anew
	$(QUIET_MACHINE) $(PY) tools/stamp.py

assignments: install  ## make students', answers' and teacher's copies; check the tests on usual mistakes
	$(QUIET_MACHINE) $(PY) tools/make_assignments.py

claims: install  ## write results/claims.md and the README's table from the stored runs
	$(PY) results/claims.py

gallery: install  ## collect docs/gallery.md from the executed notebooks
	$(PY) tools/gallery.py

site: install  ## build the course as a static site in build/site; runs no notebook
	$(PY) tools/make_site.py

site-test: site  ## the site's links, form and pages in Chromium; pictures in artefacts/browser
	@$(PLAYWRIGHT)
	$(QUIET_MACHINE) $(PY) -m pytest tests/site --durations=5

lint: install  ## ruff, spelling, and the direction of imports
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/codespell
	$(BIN)/lint-imports

format: install  ## let ruff rewrite what it can (a notebook it changes wants make notebooks NB=…)
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

lock: install  ## write requirements.lock anew; LOCK_ARGS=--upgrade for newer releases
	UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.10 \
	  --extra course --extra test --custom-compile-command "make lock" $(LOCK_ARGS) --quiet \
	  --output-file requirements.lock

audit: install  ## compare requirements.lock with the known weaknesses of its packages; needs the internet
	$(BIN)/uv tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

clean:  ## remove caches and build leftovers
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

distclean: clean  ## and remove .venv and its like
	rm -rf .venv .venv-*
