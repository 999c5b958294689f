# Targets of gppf_d2. `make help` lists them.
#
# The environment: an active virtual environment (VIRTUAL_ENV) is used; otherwise .venv, which is
# made with $(PYTHON) where it is missing. torch, torchvision and Detectron2 that import there
# already are left alone; other packages get the versions of constraints.txt.

PYTHON ?= python3
ENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
PY := $(ENV)/bin/python
STAMP := $(ENV)/.gppf_d2-installed
DEMO ?= output/demo
DEMO_DATA ?= output/data
OFFICIAL ?= output/official
OFFICIAL_RUN ?= output/quick/gppf_r50
CHECKPOINT ?= output/gppf_r50/model_final.pth
UODB ?= output/uodb
MUST ?= output/must
MUST_STUDENT ?= $(MUST)/imagenet/model_final.pth
MUST_SUPERVISED ?= $(MUST)/teachers/imagenet/model_final.pth
MUST_SETS := cifar100 pascal_detection pascal_segmentation nyu_depth ade20k diode_normals
UODB_SETS := kitti widerface pascal_voc lisa dota watercolor clipart comic kitchen deeplesion
# two test files at a time; several processes each, where a test starts processes
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo official uodb must must-transfer test test-all check format bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make the environment and install everything into it (once)

$(PY):
	@echo "Creating a virtual environment in $(ENV)"
	$(PYTHON) -m venv $(ENV)

$(STAMP): pyproject.toml constraints.txt detectron2.txt | $(PY)
	@echo "Installing into $(ENV): a few minutes, some GB with CUDA builds of torch"
	@if $(PY) -c "import torch, torchvision" 2>/dev/null; then \
	    grep -viE '^torch(vision)?==' constraints.txt > $(ENV)/constraints.txt; \
	else \
	    cp constraints.txt $(ENV)/constraints.txt; \
	    $(PY) -m pip install --quiet -c constraints.txt torch torchvision; \
	fi
	$(PY) -m pip install --quiet -c $(ENV)/constraints.txt -e ".[dev]"
	@# lvis-api is a reference of tests; what it requires would put a second OpenCV beside ours
	$(PY) -m pip install --quiet --no-deps lvis==0.5.3
	@if $(PY) -c "import detectron2" 2>/dev/null; then \
	    echo "Detectron2 is there already: left alone"; \
	else \
	    $(PY) -m pip install --quiet --no-deps --only-binary=:all: --python-version 3.10 \
	        --implementation cp --abi none -r detectron2.txt \
	        --target "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	fi
	@$(PY) -c "import detectron2, torch, torchvision; print('torch', torch.__version__, '| torchvision', torchvision.__version__, '| Detectron2', detectron2.__version__)"
	@touch $@

demo: $(STAMP) ## the main job on a miniature world: train, evaluate, export, report
	$(PY) datasets/make_mini.py --root $(DEMO_DATA)
	@if [ -f "$(DEMO)/run.json" ]; then rm -rf "$(DEMO)"; fi
	$(PY) train_net.py --config-file configs/quick/mini_r18.py --num-processes 2 \
	    --data-root $(DEMO_DATA) train.output_dir=$(DEMO)
	$(PY) -m gppf_d2.tools.export_backbone --checkpoint $(DEMO)/model_final.pth --task scenes \
	    --format torchvision --output $(DEMO)/backbone_scenes.pth
	$(PY) -m gppf_d2.tools.contact_sheets $(DEMO) --min-score 0.15 --data-root $(DEMO_DATA)
	$(PY) -m gppf_d2.tools.cka $(DEMO) --dataset mini_scenes_val --size 128 --data-root $(DEMO_DATA)
	$(PY) -m gppf_d2.tools.report $(DEMO)

official: $(STAMP) ## the eight pre-training tasks on miniatures of the official datasets
	$(PY) datasets/make_mini.py --official --root $(OFFICIAL)
	@set -e; for script in datasets/prepare_*.py; do $(PY) $$script --root $(OFFICIAL); done
	$(PY) -m gppf_d2.tools.check_dataset --all --partial --data-root $(OFFICIAL)
	@if [ -f "$(OFFICIAL_RUN)/run.json" ]; then rm -rf "$(OFFICIAL_RUN)"; fi
	$(PY) train_net.py --config-file configs/quick/pretrain/gppf_r50.py --num-processes 2 \
	    --data-root $(OFFICIAL) train.output_dir=$(OFFICIAL_RUN)

uodb: $(STAMP) ## finetune on UODB's ten sets, a table beside the paper's (CHECKPOINT=, ARGS="--data-root DIR --num-gpus 8")
	$(PY) -m gppf_d2.tools.suite $(UODB_SETS:%=configs/finetune/uodb/%.py) --output $(UODB) \
	    train.init_checkpoint=$(CHECKPOINT) $(ARGS) --rows objects365= \
	    in21k=train.init_route=in21k dynamic=train.init_route=dynamic

MINI_MUST := --num-processes 1 --data-root $(DEMO_DATA)
must: $(STAMP) ## self-training on the miniature world: teachers, labels, a student, a table of what it is good for
	$(PY) datasets/make_mini.py --root $(DEMO_DATA)
	@set -e; for label in classes boxes segments depth; do \
	    [ -f $(MUST)/teachers/$$label/results.json ] || $(PY) train_net.py $(MINI_MUST) --resume --tasks $$label \
	        --config-file configs/quick/mini_must_teachers.py train.output_dir=$(MUST)/teachers/$$label \
	        train.max_iter=$$([ $$label = boxes ] && echo 300 || echo 150); \
	done
	@set -e; for set in mini_unlabelled mini_scenes_train; do \
	    $(PY) -m gppf_d2.tools.pseudo_label --config-file configs/quick/mini_must_labels.py --data-root $(DEMO_DATA) \
	        dataset=$$set output=$(DEMO_DATA)/pseudo/$$set runs.folder=$(MUST)/teachers; \
	done
	$(PY) -m gppf_d2.tools.view_labels $(DEMO_DATA)/pseudo/mini_unlabelled --output $(MUST)/labels.html --data-root $(DEMO_DATA)
	$(PY) -m gppf_d2.tools.label_quality $(DEMO_DATA)/pseudo/mini_unlabelled --data-root $(DEMO_DATA) \
	    --truth classes=mini_hidden_objects --truth boxes=mini_hidden_scenes \
	    --truth segments=mini_hidden_parsing --truth depth=mini_hidden_depth
	@set -e; for run in student supervised; do \
	    [ -f $(MUST)/$$run/results.json ] || $(PY) train_net.py $(MINI_MUST) --resume \
	        --config-file configs/quick/mini_must_$$run.py train.output_dir=$(MUST)/$$run; \
	done
	$(PY) -m gppf_d2.tools.suite configs/quick/mini_must_normals.py configs/quick/mini_must_voc.py \
	    --output $(MUST)/transfer $(MINI_MUST) --rows scratch=train.init_checkpoint= \
	    classes=train.init_checkpoint=$(MUST)/teachers/classes/model_final.pth,train.init_route=classes,train.init_head=classes \
	    supervised=train.init_checkpoint=$(MUST)/supervised/model_final.pth \
	    student=train.init_checkpoint=$(MUST)/student/model_final.pth

must-transfer: $(STAMP) ## MuST's six transfer tasks, each swept, in a table beside the paper's (MUST_STUDENT=, MUST_SUPERVISED=, ARGS="--data-root DIR --workers 2 --num-gpus 4")
	$(PY) -m gppf_d2.tools.suite $(MUST_SETS:%=configs/must/transfer/%.py) --sweep \
	    --output $(MUST)/transfer_suite $(ARGS) --rows must=train.init_checkpoint=$(MUST_STUDENT) \
	    supervised=train.init_checkpoint=$(MUST_SUPERVISED),train.init_route=classes,train.init_head=classes

test: $(STAMP) ## every mechanism, one tiny twin per config family (under 15 minutes on 2 cores)
	$(PY) -m pytest -m "not slow" $(PARALLEL)

test-all: $(STAMP) ## the same and every config
	$(PY) -m pytest $(PARALLEL)

check: $(STAMP) ## lint, format, import directions, tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest tests/test_rooms.py
	$(PY) -m pytest -m "not slow" $(PARALLEL) --ignore tests/test_rooms.py

format: $(STAMP) ## let ruff format and sort imports
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP) ## ratios against peers and baselines, each from one run
	$(PY) -m gppf_d2.tools.bench_sync_bn
	$(PY) -m gppf_d2.tools.bench_task_average
	$(PY) -m gppf_d2.tools.bench_lego
	$(PY) -m gppf_d2.tools.bench_step
	$(PY) -m gppf_d2.tools.bench_index
	$(PY) -m gppf_d2.tools.bench_mapper
	$(PY) -m gppf_d2.tools.bench_evaluation
	$(PY) -m gppf_d2.tools.bench_pseudo_label
	$(PY) -m gppf_d2.tools.bench_cka

clean: ## remove caches, keep the environment and what runs wrote
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
