# make study                      the whole study on the embedded data   -> results/creatures
# make study PROFILE=pets         the same on Oxford-IIIT Pet photographs -> results/pets
# make comparison                 a page of its own in results/PROFILE, from the same networks; so do
#                                 make scores, make controls, make seeds, make architectures, make faithfulness
# make test                       everything continuous integration checks
# make peers                      agreement with TorchCAM and pytorch-grad-cam, and timm's networks
#
# EVERYTHING=1 and SHOW_PHOTOS=1, on the command line or in the environment, reach the study as they are.
# PYTHON=python3.13 makes the environment with another Python, VENV=path puts it (or takes it) elsewhere.

PROFILE ?= creatures
PYTHON  ?= python3
VENV    ?= .venv
JOBS    ?= 2

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.dgl-installed

.PHONY: study comparison scores controls seeds architectures faithfulness test peers notebooks lab env clean

study: env
	$(PY) -m dgl_lib study $(PROFILE)

comparison scores controls seeds architectures faithfulness: env
	$(PY) -m dgl_lib $@ $(PROFILE)

# One pytest session for tests and notebooks: loadscope keeps the cells of a notebook together and in order.
test: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest tests --nbval --nbval-current-env notebooks -n $(JOBS) --dist loadscope

# Without what they ask for themselves: that is installed already, in our versions.
peers: env
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	$(PY) -c 'import pytorch_grad_cam, timm, torchcam'  # else their tests would skip, and nothing would be compared
	$(PY) -m pytest tests/peers tests/test_any_network.py

notebooks: env
	$(PY) -m dgl_lib notebooks

lab: env
	$(PY) -m jupyterlab notebooks

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
	rm -rf .venv results/.quick results/.runs results/.photos
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find dgl_lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
