# The course's commands; `make help` lists them. Everything is installed into .venv and stays there.
PYTHON   ?= python3
LAB_ARGS ?=
NB       ?= $(wildcard notebooks/[0-9][0-9]_*.ipynb)
LOCK_ARGS ?=

BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY  := $(BIN)/python
# uv with pip's mirror and certificate, where somebody has set them.
UV  := $(PY) tools/install.py uv
# One thread for each process: more only get in each other's way. The venv's own kernel.
PYTEST := OMP_NUM_THREADS=1 JUPYTER_PREFER_ENV_PATH=1 $(PY) -m pytest --durations=10
DAILY  := -m "not nightly"
# Files are shared out among the cores; the tests of one file stay together.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# These want more than .venv and have targets of their own.
ELSEWHERE := $(addprefix --ignore=tests/,browser site colab grade/test_nbgrader.py)
NBVAL := -p tools.notebook_times --nbval-lax --nbval-current-env --nbval-cell-timeout 120
# A notebook that is late beside other tests runs once more alone.
LATE = if [ -s build/late_notebooks ]; then echo "Once more, alone:" && \
  $(PYTEST) $(NBVAL) $$(cat build/late_notebooks); fi
# Playwright drives the browser; the browser itself is the system's.
PLAYWRIGHT := $(UV) pip install --quiet --python $(PY) --constraint requirements.lock \
  --requirement pyproject.toml --extra browser
FIRST  := notebooks/00_start_here.ipynb
LINTED := sff_teach sff_grade tests tools data results docs notebooks
STARTED := $(shell date +%s)

# Compiled files are kept, whatever this machine's habit; else every kernel compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE

# glibc hands large blocks back to the system after every use, and clears them again, page by page: up to a
# third of a training step on a CPU. With these settings it keeps them.
export MALLOC_MMAP_THRESHOLD_ := 33554432
export MALLOC_TRIM_THRESHOLD_ := 1073741824

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test install unit guard notebooks-test browser-test rehearse offline-test nightly \
  colab-test teacher-test models-test versions-test site site-test colab-kit notebooks stamp assignments claims \
  gallery lint format lock audit clean distclean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

lab: install  ## open JupyterLab at notebook 00; LAB_ARGS="--no-browser --port 8899" without a screen
	JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab --LabApp.default_url=/lab/tree/$(FIRST) \
	  --ServerApp.root_dir="$(CURDIR)" --ServerApp.ip=127.0.0.1 \
	  --FileContentsManager.pre_save_hook=tools.saving.without_version \
	  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_ARGS)

test: install lint  ## every check, the daily tests and every notebook
	$(PYTEST) $(NBVAL) $(DAILY) $(PARALLEL) $(NB) tests $(ELSEWHERE)
	@$(LATE)
	@echo "make test: everything passed, in $$(( $$(date +%s) - $(STARTED) )) s with the installation."

install:  ## make .venv and install the locked packages; once done, do nothing
	@command -v $(PYTHON) >/dev/null || { echo "The course needs Python 3.10 to 3.14, and there is \
	no $(PYTHON) here; install one, or name it: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) tools/install.py

unit: install  ## the daily tests alone
	$(PYTEST) $(DAILY) $(PARALLEL) tests $(ELSEWHERE) --ignore=tests/notebooks

guard: install  ## the form of notebooks and pages: outputs, links, alt text, headings, freshness
	$(PYTEST) $(DAILY) tests/notebooks

notebooks-test: install  ## run every notebook, each cell a test; NB=notebooks/05_….ipynb for one
	$(PYTEST) $(NBVAL) $(PARALLEL) $(NB)
	@$(LATE)

browser-test: install  ## the explorers in a real JupyterLab and Chromium; pictures in artefacts/browser
	@$(PLAYWRIGHT)
	$(PYTEST) $(DAILY) tests/browser

rehearse: install  ## the campaign for a GPU, with tiny sizes on the processor
	$(if $(wildcard results/gpu.py),OMP_NUM_THREADS=1 $(PY) results/gpu.py --rehearse,@echo "There is no campaign to rehearse yet.")

offline-test: install  ## make test with the network cut off (Linux)
	$(PY) tools/offline.py $(MAKE) --no-print-directory test

nightly: install  ## everything that takes long: kills, full disks, sweeps, other versions, Colab, nbgrader, the site
	@$(PLAYWRIGHT)
	$(PYTEST) -m nightly $(PARALLEL) tests --ignore=tests/site --ignore=tests/colab --ignore=tests/grade/test_nbgrader.py
	$(MAKE) --no-print-directory site-test colab-test teacher-test models-test versions-test

# Environments beside .venv. Each is made again when the files that it is made from change.
EXTRAS := course,test
define side_environment
$(UV) venv --quiet --clear --python $(PY) $(@D)
$(UV) pip install --quiet --python $(@D) $(1)
@touch $@
endef
.venv-colab/made: tests/colab/requirements.txt requirements.lock | install
	@mkdir -p build
	grep -E '^torch(vision)?==' requirements.lock > build/torch.txt
	$(call side_environment,-r $< -r build/torch.txt)
.venv-teacher/made: pyproject.toml requirements.lock | install
	$(call side_environment,-r requirements.lock -r pyproject.toml --extra teacher)
.venv-models/made: pyproject.toml requirements.lock | install
	$(call side_environment,-r requirements.lock -e ".[models-test]")
.venv-newest/made: pyproject.toml requirements.lock | install
	$(call side_environment,--upgrade -e ".[$(EXTRAS)]")
.venv-floor/made: pyproject.toml | install
	$(call side_environment,--resolution lowest-direct -e ".[$(EXTRAS)]")

colab-test: .venv-colab/made  ## notebooks, kit and explorers with Colab's versions, in .venv-colab
	$(PYTEST) tests/colab

teacher-test: .venv-teacher/made  ## assignments and marks beside nbgrader's, in .venv-teacher
	$(subst $(PY),.venv-teacher/$(notdir $(BIN))/python,$(PYTEST)) tests/grade/test_nbgrader.py

models-test: .venv-models/made  ## networks of torchvision, timm, transformers; other frameworks' loops, in .venv-models
	$(subst $(PY),.venv-models/$(notdir $(BIN))/python,$(PYTEST)) \
	  tests/cut/test_model_zoos.py tests/idea/test_own_loop_page.py

# Training, widgets and figures in two notebooks. Old packages warn about newer ones, and leave files open.
VERSIONED := $(DAILY) $(PARALLEL) --nbval-lax --nbval-current-env --nbval-cell-timeout 120 \
  $(wildcard notebooks/00_*.ipynb notebooks/06_*.ipynb) tests $(ELSEWHERE) \
  --ignore=tests/project --ignore=tests/notebooks --ignore=tests/grade
versions-test: .venv-newest/made .venv-floor/made  ## daily tests with the newest and the oldest versions allowed
	$(subst $(PY),.venv-newest/$(notdir $(BIN))/python,$(PYTEST)) $(VERSIONED)
	$(subst $(PY),.venv-floor/$(notdir $(BIN))/python,$(PYTEST)) $(VERSIONED) \
	  -W ignore::DeprecationWarning -W ignore::pytest.PytestUnraisableExceptionWarning

colab-kit: install  ## pack dist/sff-teach-kit.zip for a class without a hosted repository
	$(PY) tools/colab_kit.py

notebooks: install  ## run the notebooks, write their executed copies; NB=notebooks/05_….ipynb for one
	OMP_NUM_THREADS=1 $(PY) tools/run_notebooks.py $(NB)
	$(PY) tools/gallery.py
	$(PY) results/notebook_times.py

stamp: install  ## clean the notebooks; write first cell, links and minutes in, without running them
	$(PY) tools/stamp.py

assignments: install  ## make students', answers' and teacher's copies; check the tests on usual mistakes
	$(PY) tools/make_assignments.py

claims: install  ## write results/claims.md and the README's picture from the stored runs
	$(PY) results/claims.py

gallery: install  ## collect docs/gallery.md from the executed notebooks
	$(PY) tools/gallery.py

site: install  ## build the course as a static site in build/site; runs no notebook
	@$(UV) pip install --quiet --python $(PY) --constraint requirements.lock \
	  --requirement pyproject.toml --extra site
	$(PY) tools/make_site.py

site-test: site  ## the site's links, form and pages in Chromium; pictures in artefacts/browser
	@$(PLAYWRIGHT)
	$(PYTEST) tests/site

lint: install  ## ruff, spelling, and the direction of imports
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/codespell
	$(BIN)/lint-imports

format: install  ## let ruff rewrite what it can (a notebook it changes wants make notebooks NB=…)
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

lock: install  ## write requirements.lock anew; LOCK_ARGS=--upgrade for newer releases
	$(UV) pip compile pyproject.toml --universal --python-version 3.10 \
	  --extra course --extra test --custom-compile-command "make lock" $(LOCK_ARGS) --quiet \
	  --output-file requirements.lock

audit: install  ## compare requirements.lock with the known weaknesses of its packages; needs the internet
	$(UV) tool run pip-audit --strict --disable-pip --no-deps --requirement requirements.lock

clean:  ## remove caches and build leftovers
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print0 | xargs -0 rm -rf

distclean: clean  ## and remove .venv and its like
	rm -rf .venv .venv-*
