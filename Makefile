# make quickstart: from nothing to predictions. make help: the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

REQUIREMENTS := $(shell nvidia-smi -L >/dev/null 2>&1 && echo requirements.txt || echo requirements/cpu.txt)
# Named after what is to be installed, so that a changed requirement completes the environment and an unchanged one costs nothing.
READY := $(VENV)/.ready-$(shell cat requirements/base.txt $(REQUIREMENTS) requirements/dev.txt requirements/constraints.txt | cksum | cut -d' ' -f1)

TRITON_READY := .venv-triton/.ready-$(shell cat tests/requirements-triton.txt requirements/constraints.txt | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint test-setup triton-setup bench-setup clean

help:  ## Show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## Make or complete .venv (GPU packages where nvidia-smi finds a card)

$(READY):
	@$(PYTHON) -c "import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else 'Python 3.10, 3.11 or 3.12 is needed, this is ' + sys.version.split()[0] + '; try: make setup PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -r $(REQUIREMENTS) -r requirements/dev.txt
	@rm -f $(VENV)/.ready-*
	@touch $@

quickstart: setup  ## Train, evaluate and predict on the example data with a tiny model: CPU, no download, minutes
	$(BIN)/python data/make_tiny_model.py --dropout 0
	$(BIN)/python train.py --dataset_dir data --device cpu --model_name data/tiny-ernie --save_dir quickstart/checkpoint \
		--learning_rate 1e-3 --epochs 12 --max_seq_length 96 --logging_steps 50
	$(BIN)/python analysis/evaluate.py --dataset_dir data --device cpu --params_path quickstart/checkpoint \
		--report_file quickstart/report.json
	$(BIN)/python predict.py --dataset_dir data --device cpu --params_path quickstart/checkpoint \
		--output_file quickstart/predicted.txt --scores
	@echo
	@echo "It works. The model was a tiny one with random weights; a pretrained one does far better. Next:"
	@echo "  $(BIN)/python train.py --dataset_dir data --device cpu --model_name ernie-3.0-medium-zh --early_stop --epochs 100"
	@echo "  $(BIN)/python analysis/evaluate.py --dataset_dir data --device cpu --params_path ./checkpoint"
	@echo "  $(BIN)/python predict.py --dataset_dir data --device cpu --output_file predicted.txt"
	@echo "  $(BIN)/python export_model.py --params_path ./checkpoint --output_path ./export"
	@echo "  $(BIN)/python deploy/predictor/infer.py --device cpu --model_path_prefix export/float32 --dataset_dir data"
	@echo "With a GPU: --device gpu. Your own rows: put train.txt, dev.txt and label.txt (data/README.md) into a folder, and"
	@echo "give it as --dataset_dir. Labels without a hierarchy: see data/multi_label."

test: test-setup  ## Run the tests
	$(BIN)/python -m pytest

# What some tests need beyond the requirements: an index that is compiled here, a browser, a real Triton server.
test-setup: setup  ## Add what the tests need, where it can be had: hnswlib, Milvus Lite, Chromium, Triton
	@$(MAKE) --no-print-directory triton-setup || \
		echo "Triton could not be set up (see above); its tests are skipped"
	@$(BIN)/python -c "import hnswlib" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/index.txt || \
		echo "hnswlib was not built (it needs a C++ compiler: apt-get install g++); its tests are skipped"
	@$(BIN)/python -c "import milvus_lite, pymilvus" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/milvus.txt || \
		echo "Milvus Lite could not be had; its tests are skipped"
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq chromium chromium-driver fonts-noto-cjk >/dev/null; } || \
		echo "Chromium is not here (apt-get install chromium chromium-driver fonts-noto-cjk); the pages' tests are skipped"

# NVIDIA's wheel of it is for Linux on x86-64 alone; elsewhere the tests of Triton are skipped.
triton-setup: $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(TRITON_READY))  ## Make .venv-triton, where the tests find a real Triton server

# The server runs Python models in a program that is linked with libpython, which Debian's Python comes without.
$(TRITON_READY):
	@rm -f .venv-triton/.ready-*
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --upgrade pip
	.venv-triton/bin/python -m pip install --quiet -r tests/requirements-triton.txt
	@.venv-triton/bin/python tests/triton_server.py || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq "lib$$(basename $$(readlink -f .venv-triton/bin/python))" >/dev/null && \
		.venv-triton/bin/python tests/triton_server.py; }
	@touch $@

lint: setup  ## Check the code's form
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench-setup:  ## Make .venv-bench, where the benchmarks find PyTorch and OpenVINO
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install torch==2.13.0 transformers==5.23.0 openvino==2026.4.1 tokenizers numpy

clean:  ## Remove what quickstart and the tests left
	rm -rf quickstart data/tiny-ernie data/bad_case.txt .pytest_cache .ruff_cache .hypothesis
