# rlm-posttrain: makes recursive language models. `make` alone lists what there is.
# Settings:  RUN=runs/mine   DEMO=ci (the small configs)   DATA=paper   ARGS="--set key=value"   PYTHON=python3.12
.DEFAULT_GOAL := help
.PHONY: setup demo data train merge serve eval push view test lint clean help

# An environment that is there goes on with its own Python.
PYTHON ?= $(shell .venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python || echo python3)
DEMO ?= tiny
RUN ?= runs/demo$(if $(filter-out tiny,$(DEMO)),-$(DEMO))
# Where `make data` writes: RUN if it is given, else a place of its own.
DATA ?= thousand
DATA_RUN = $(if $(filter command environment,$(firstword $(origin RUN))),$(RUN),runs/$(DATA))
# Only asked where pip by itself finds no CPU build of torch.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export TORCH_INDEX STACK

BIN := .venv/bin
PY := $(BIN)/python
ACCELERATE ?= $(if $(shell command -v nvidia-smi),one-gpu,cpu)
LAUNCH = $(BIN)/accelerate launch --config_file configs/accelerate/$(ACCELERATE).yaml

setup: ## make .venv with the CPU or the GPU stack, whichever fits this machine
	@$(PYTHON) scripts/setup.py

demo: setup ## the whole loop on a tiny model: data, train, serve, evaluate, report
	@$(PY) scripts/demo.py --size $(DEMO) --run $(RUN)

data: setup ## teacher runs -> trajectories -> rows; DATA=paper is another config
	$(PY) -m data_gen.generate --config configs/data/$(DATA).yaml --run $(DATA_RUN) $(ARGS)
	$(if $(wildcard configs/data/$(DATA)-direct.yaml),$(PY) -m data_gen.direct --config configs/data/$(DATA)-direct.yaml --run $(DATA_RUN))

train: setup ## rows -> adapter, and the adapter of the control
	$(LAUNCH) train/sft.py --config configs/sft/$(DEMO).yaml --run $(RUN) $(ARGS)
	$(LAUNCH) train/sft.py --config configs/sft/$(DEMO)-direct.yaml --run $(RUN) $(ARGS)

serve: setup ## vLLM with base and adapter, and the OpenAI-compatible endpoint in front
	$(PY) -m serve --config configs/serve/$(DEMO).yaml --run $(RUN) $(ARGS)

eval: setup ## measure all arms, then write the report
	$(PY) -m eval.run --config configs/eval/$(DEMO).yaml --run $(RUN) $(ARGS)
	$(PY) -m eval.report --run $(RUN)

view: setup ## print the result table and open a page of all runs
	@if [ -s $(RUN)/eval/results.jsonl ]; then $(PY) -m eval.report --run $(RUN); fi
	$(PY) -m rlm_executor.viewer $(RUN) --out $(RUN)/view.html --open

merge: setup ## adapter and base -> one model, checked against the two
	$(PY) -m train.merge --run $(RUN) $(ARGS)

push: setup ## show what would go to the Hub as REPO=owner/name; SEND=1 sends it (private)
	@$(PY) -m train.push --run $(RUN) $(if $(REPO),--repo $(REPO)) $(if $(SEND),--send) $(ARGS)

lint: setup ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## style, then all tests, the small demo among them; a skip that is not listed fails
	OMP_WAIT_POLICY=passive $(PY) -m pytest --gate -n auto --maxprocesses 4 --no-loadscope-reorder $(ARGS)

bench-%: setup ## run scripts/bench_NAME.py
	$(PY) -m scripts.bench_$* $(ARGS)

clean: ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

help:
	@awk -F':.*## ' '/^[a-z%-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
