# make study                      notebooks 01 to 04 on the embedded data -> results/creatures
# make study PROFILE=pets         the same on Oxford-IIIT Pet photographs -> results/pets
# make study NOTEBOOKS=all        the other four notebooks too; NOTEBOOKS=05 one of them
# make test                       everything continuous integration checks
# make peers                      agreement with TorchCAM and pytorch-grad-cam, and timm's networks
# make lab, make explorer         the notebooks in JupyterLab; a map's sliders alone, on localhost
# make browser                    notebooks, explorer and site in a real browser (Chromium has to be there)
# make slides                     a talk from the notebooks' slides -> build/slides
# make site                       pages, notebooks, results and the library's reference -> build/site
# make breakages                  twelve ways to get the method wrong: tests and notebooks turn red  -> results/tests
# make commands                   every command of README in a fresh clone, on small data  -> results/tests
# make mutants                    small breakages of the core, drawn with a seed: its unit tests turn red  -> results/tests
#
# SET="alpha=5 test_per_class=0" puts other values over the profile's.
# PYTHON=python3.13 makes the environment with another Python, VENV=path puts it (or takes it) elsewhere.

PROFILE   ?= creatures
NOTEBOOKS ?=
SET       ?=
PYTHON    ?= python3
VENV      ?= .venv
JOBS      ?= 2

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.dgl-installed
ONLY  := $(if $(filter all,$(NOTEBOOKS)),--all,$(addprefix --only ,$(NOTEBOOKS)))

.PHONY: study test peers breakages commands mutants notebooks lab explorer browser slides site env clean

study: env
	$(PY) -m dgl_lib study $(PROFILE) $(ONLY) $(addprefix --set ,$(SET))

# Each process has a core: two threads each on two cores get in each other's way, and all takes twice as long.
test: export OMP_NUM_THREADS = 1
# Two sessions, as nbval and coverage do not go together. loadscope keeps a notebook's cells together and in order.
test: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-cache
	$(PY) -m pytest tests dgl_lib -n $(JOBS) --cov
	$(PY) -m pytest --nbval --nbval-current-env notebooks -n $(JOBS) --dist loadscope

# Without what they ask for themselves: that is installed already, in our versions.
peers: env
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	$(PY) -c 'import pytorch_grad_cam, timm, torchcam'  # else their tests would skip, and nothing would be compared
	$(PY) -m pytest tests/peers tests/test_any_network.py tests/test_predict.py

breakages: env
	$(PY) tests/breakages.py

commands: env
	$(PY) tests/commands.py

mutants: env
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-mutants.txt
	$(PY) tests/mutants.py

notebooks: env
	$(PY) -m dgl_lib notebooks

lab: env
	$(PY) -m jupyterlab notebooks/00_start_here.ipynb

explorer: env
	$(PY) -m voila notebooks/teaching/explorer.ipynb

browser: env site
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-browser.txt -c constraints.txt
	$(PY) -c 'import playwright'  # else the tests would skip, and no browser would be opened
	DGL_BROWSER=all $(PY) -m pytest tests/browser

# Cells that are no slide are left out, and so is code.
slides: env
	$(PY) -m nbconvert --to slides --no-input --output-dir build/slides notebooks/0[0-8]*.ipynb

# -W: a link that leads nowhere is an error.
site: env
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-site.txt -c constraints.txt
	$(PY) -m sphinx -W --keep-going -q -c docs . build/site
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > build/site/index.html
	@echo "build/site/index.html"

env: $(STAMP)

$(STAMP): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: name another with PYTHON=..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV): a few minutes"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Committed results and downloaded data stay.
clean:
	rm -rf .venv results/.[a-z]*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find dgl_lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
