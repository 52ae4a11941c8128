# make demo: set up and run the main job; make test: the tests. Both make the environment where it is missing.

# The newest Python that has a tested set of versions and can make environments. A name that does not run (a pyenv shim,
# a Debian Python without python3-venv) is passed over, which only running it tells. PYTHON=... chooses another.
PYTHONS = python3.14 python3.13 python3.12 python3.11 python3.10 python3 python
SUITABLE = import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)
PYTHON := $(PYTHON)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS = constraints/py$(VERSION).txt
VENV ?= .venv
BIN = $(VENV)/bin
# more of pip's arguments for torch, for example TORCH="--index-url https://download.pytorch.org/whl/cpu"
TORCH ?=
EXTRAS ?= all,test

.PHONY: demo test test-fast test-gpu lint bench docs mutants python

# torch first and by itself: its wheel may come from an index of its own
$(VENV)/.torch: $(wildcard constraints/*.txt) | python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c $(CONSTRAINTS) setuptools wheel
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) $(TORCH) torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch setup.cfg
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e ".[$(EXTRAS)]"
	# without its metadata, which ask for a Ray that no Python above 3.11 can have; what its code needs is in setup.cfg
	$(BIN)/python -m pip install --quiet --no-deps -c $(CONSTRAINTS) recbole
	touch $@

# before minutes of installation
python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.14 with venv among $(PYTHONS)." \
	    "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	@test -n "$(VERSION)" || { echo "error: PYTHON=$(PYTHON) does not run." >&2; exit 2; }
	@test -f "$(CONSTRAINTS)" || { echo "error: PYTHON=$(PYTHON) is Python $(VERSION); tested are 3.10 to 3.14." \
	    "Name another: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: PYTHON=$(PYTHON) cannot make environments" \
	    "(Debian, Ubuntu: apt install python$(VERSION)-venv)." >&2; exit 2; }

# the folder of the demo's run, from which README recommends; a demo that was stopped goes on there
DEMO_OUT ?= out
demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python run_recbole_eimf.py --model=EIMF --dataset=ml-100k --output_dir=$(DEMO_OUT) --resume=True $(DEMO)

# processes that share the tests; a file's tests stay together
JOBS ?= 2
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PARALLEL)

# what hardly trains: two minutes
FAST = tests/data tests/evaluator tests/semantic/test_reply.py tests/semantic/test_prompt.py tests/semantic/test_keywords.py \
    tests/semantic/test_batch.py tests/model/test_loss.py tests/model/test_layer.py tests/model/test_mmd.py \
    tests/model/test_multi_interest.py tests/model/test_negatives.py tests/model/test_soft_label.py tests/test_config.py \
    tests/test_parts.py tests/test_packaging.py tests/study/test_space.py tests/study/test_table.py tests/study/test_forms.py recbole_eimf
test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest $(PARALLEL) $(FAST)

# all that needs a GPU, then gpu_epoch.py (GPU_OPTIONS="--dataset=... --data_path=..."); fails where there is none
test-gpu: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.gpu $(GPU_OPTIONS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the documentation's site in site/, offline; a warning is an error
docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed
	@echo "benchmarks take their data by argument; see benchmarks/README.md"
	$(BIN)/python benchmarks/epoch_time.py --dataset ml-100k

# Hours: for the night. `make mutants MUTANTS="--files model/pad --sample 200"` does a part; a stopped run goes on.
mutants: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 nice -n 15 $(BIN)/python -m tests.mutants $(MUTANTS)
