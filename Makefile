# Every target works on a fresh clone: the first one makes .venv and installs the package into it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   ?= demo
REAL   ?= demo-real

.PHONY: help install lint format test test-slow reliability audit demo demo-real bench-speed bench-sarcoma bench-pretrained bench-encoders bench-healthy-scans bench-boxes bench-startup bench-training \
	bench-engine bench-roofline bench-backends bench-whole-scan bench-efficiency bench-region bench-overlap bench-systems bench-ablations bench-evaluation bench-scale clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(READY)  ## make .venv with the package and its test tools

$(READY): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, venv; assert sys.version_info >= (3, 10)' || \
		{ echo "error: $(PYTHON) needs to be Python 3.10 or newer with venv. On Debian: apt-get install python3-venv."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $(READY)

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint  ## lint and the default tests, under 15 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n 2 --durations=10

test-slow: $(READY)  ## large volumes, long trainings and real-data checks
	$(BIN)/python -m pytest -m 'slow and not reliability' --durations=20

reliability: $(READY)  ## every figure of docs/reliability.md, about 20 minutes; reliability-NAME for one
	$(call figures,)

reliability-%: $(READY)
	$(call figures,--figure=$*)

define figures
OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m reliability $(1) --record-figures=docs/reliability.jsonl --durations=10; \
	status=$$?; $(BIN)/python benchmarks/reliability_page.py && exit $$status
endef

audit: $(READY)  ## ask the advisory database about every installed package; needs a network
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement $(VENV)/installed.txt

demo: $(READY)  ## the whole pipeline on synthetic patients, on CPU, ending in demo/report.html
	$(BIN)/python scripts/demo.py --output $(DEMO)

demo-real: $(READY)  ## four real lung-cancer patients, leave-one-out, ending in demo-real/report.html
	$(BIN)/python scripts/demo_real.py --output $(REAL)

bench-speed: $(READY)  ## MB/s of preparation, stacks/s of training, seconds per slice of inference
	$(BIN)/python benchmarks/speed.py

bench-sarcoma: $(READY)  ## five patient folds on 40 sarcomas against a 2D U-Net
	$(BIN)/python benchmarks/sarcoma.py

bench-pretrained: $(READY)  ## LiteMedSAM's encoder, real and random, against ours from scratch
	$(BIN)/python benchmarks/sarcoma.py --question pretrained

bench-encoders: $(READY)  ## load time, memory and seconds a slice of every encoder
	$(BIN)/python benchmarks/encoders.py

bench-training: $(READY)  ## stacks/s of exchange, ladder and ladder on cached features
	$(BIN)/python benchmarks/training_speed.py

bench-boxes: $(READY)  ## LiteMedSAM's real weights, prompted with the reference's boxes
	$(BIN)/python benchmarks/box_prompts.py

bench-startup: $(READY)  ## seconds from start to end of a command, MB/s of gzip
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/gzip_speed.py

bench-engine: $(READY)  ## the engine against stacks; scans up to 1000 slices; 1 to 32 classes
	$(BIN)/python benchmarks/engine.py

bench-roofline: $(READY)  ## GFLOP/s of every group of layers against the matrix product
	$(BIN)/python benchmarks/roofline.py

bench-backends: $(READY)  ## PyTorch as it is against torch.compile and OpenVINO
	$(BIN)/python -m pip install --quiet openvino
	$(BIN)/python benchmarks/backends.py

bench-whole-scan: $(READY)  ## a scan of 100 slices against nnU-Net v2, MONAI and segment_anything
	$(PYTHON) -m venv $(VENV)/compared
	$(VENV)/compared/bin/python -m pip install --quiet '.[benchmarks]'
	$(BIN)/python benchmarks/whole_scan.py --python $(VENV)/compared/bin/python

bench-efficiency: $(READY)  ## seconds, peak memory and memory-time area of whole scans
	$(BIN)/python benchmarks/efficiency.py

bench-region: $(READY)  ## what infer-volume --region auto saves and loses
	$(BIN)/python benchmarks/region.py

bench-healthy-scans: $(READY)  ## what calibration on healthy scans buys and costs, after bench-systems
	$(BIN)/python benchmarks/healthy_scans.py --data systems/store --runs systems/samcancer --name masked --work healthy_scans

bench-overlap: $(READY)  ## overlap and stitching device of a volume network's patches
	$(BIN)/python benchmarks/overlap.py

bench-systems: $(READY)  ## the papers' systems side by side on synthetic patients
	$(BIN)/python benchmarks/systems.py --output systems

bench-evaluation: $(READY)  ## seconds to score 40 label maps of 512 x 512 x 100, and plainly
	$(BIN)/python benchmarks/evaluation_speed.py

bench-scale: $(READY)  ## index, folds and sampler of 1,000 to 100,000 cases; cohorts with two workers
	$(BIN)/python benchmarks/scale.py

bench-ablations: $(READY)  ## the papers' ablations that need no published weights
	for name in slices vectors partial presence fusion; do $(BIN)/python benchmarks/ablations.py $$name --output ablations || exit; done

clean:  ## remove what the targets above made
	rm -rf $(VENV) $(DEMO) $(REAL) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
