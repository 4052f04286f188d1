# make study: environment, then the study; make test: everything the tests need, then the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
TESTS = $$(( $$(getconf _NPROCESSORS_ONLN) < 4 ? $$(getconf _NPROCESSORS_ONLN) + 1 : 5 ))
SLURM := slurmctld slurmd slurm-client munge

.DEFAULT_GOAL := help
.PHONY: help environment study check-config chapter intervene route steer values convert check test test-long test-faults test-cluster lint lists benchmark benchmark-gpu clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment: $(VENV)/library.done ## Create .venv with the pinned packages of the study, and the library

study: environment ## Run the default study; ends with results/report/index.html
	$(BIN)/snakemake --cores $(CORES) --rerun-incomplete
	@echo "Report: $(CURDIR)/results/report/index.html"

check-config: environment ## Check a config before a study, and say which study it is: OVERLAY=my_study.yaml
	@$(BIN)/python -m gatebook.run.check_config $(OVERLAY)

chapter: environment ## Answer one question alone: NAME=similarity MODEL=demo LAYERS=1 TOKENS=10000 DATASETS=python,cpp
	@$(BIN)/python -m gatebook.chapters $(NAME) $(if $(MODEL),--model $(MODEL)) $(if $(LAYERS),--layers $(LAYERS)) \
	  $(if $(TOKENS),--tokens $(TOKENS)) $(if $(DATASETS),--datasets $(DATASETS)) $(if $(CONFIG),--configfile $(CONFIG)) \
	  $(if $(NAME),--cores $(CORES)) $(OPTIONS)

intervene: environment ## Change one expert in a prompt: PROMPT="..." LAYER=1 EXPERT=9 TOKEN=4 FACTOR=0 GENERATE=20
	@$(BIN)/python -m gatebook.report.intervene $(if $(DATASET),--dataset $(DATASET),--prompt "$$PROMPT") --layer $(LAYER) \
	  $(if $(EXPERT),--expert $(EXPERT)) $(if $(TOKEN),--token $(TOKEN)) $(if $(FACTOR),--factor $(FACTOR)) \
	  $(if $(DELTA),--delta=$(DELTA)) $(if $(STAGE),--stage $(STAGE)) $(if $(GENERATE),--generate $(GENERATE)) \
	  $(if $(MODEL),--model $(MODEL)) $(if $(CONFIG),--configfile $(CONFIG)) $(OPTIONS)

route: environment ## How every layer routes a prompt: PROMPT="..." or FILE=, or a token: DATASET=python DOCUMENT=2 TOKEN=300
	@$(BIN)/python -m gatebook.report.route $(if $(DATASET),--dataset $(DATASET),$(if $(FILE),--file "$(FILE)",--prompt "$$PROMPT")) \
	  $(if $(DOCUMENT),--document "$(DOCUMENT)") $(if $(TOKEN),--token $(TOKEN)) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(CONFIG),--configfile $(CONFIG)) $(OPTIONS)

steer: environment ## Steer a prompt: PROMPT="..." LAYER=2 TOWARD=python AWAY=cpp, or put in a text: FROM="..."
	@$(BIN)/python -m gatebook.report.steer --prompt "$$PROMPT" --layer $(LAYER) \
	  $(if $(TOWARD),--toward $(TOWARD)) $(if $(AWAY),--away $(AWAY)) $(if $(FROM),--from "$$FROM") \
	  $(if $(FROM_AT),--from-at "$(FROM_AT)") $(if $(KIND),--kind $(KIND)) $(if $(DOSE),--dose=$(DOSE)) \
	  $(if $(AT),--at "$(AT)") $(if $(GENERATE),--generate $(GENERATE)) $(if $(MODEL),--model $(MODEL)) \
	  $(if $(CONFIG),--configfile $(CONFIG)) $(OPTIONS)

values: environment ## Count the values of a column: FILE=data/pile.jsonl BY='meta[pile_set_name]'
	@$(BIN)/python -m gatebook.inputs.values $(FILE) $(if $(BY),--by '$(BY)') $(OPTIONS)

convert: environment ## Write pickled weights as safetensors into a folder beside: FOLDER=path/of/the/model
	@$(BIN)/python -m gatebook.routing.convert "$(FOLDER)"

check: lint ## Style checks and the unit tests that take no time
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow and not long" tests/unit

test: $(VENV)/test.done ## Run the tests, files of tests side by side
	$(BIN)/python -m pytest --numprocesses $(TESTS) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/test.done ## Run what make test leaves out: whole studies once more, other schedulers, reruns, benchmarks
	$(BIN)/python -m pytest --numprocesses $(TESTS) --dist loadfile -m long

test-faults: $(VENV)/test.done ## Kill a local study at ten random moments and take it up again
	$(BIN)/python -m pytest tests/faults

test-cluster: $(VENV)/test.done ## Run the study on a real Slurm, installed and started for it (root on Debian)
	@which slurmctld slurmd munged >/dev/null || { echo "Installing with apt-get: $(SLURM)" && apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $(SLURM); } || true
	$(BIN)/python -m pytest tests/cluster

lint: $(VENV)/test.done ## Check style: ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check scripts tests benchmarks
	$(BIN)/ruff format --check scripts tests benchmarks
	$(BIN)/snakefmt --check Snakefile workflow rules
	$(BIN)/snakemake --lint

lists: environment ## Write what follows from the code: rules/files.txt, tables of config/README.md and README.md
	$(BIN)/python -m gatebook.lists
	$(BIN)/python tests/unit/families.py

benchmark: environment ## Measure cost, size and memory on the CPU; prints a table (benchmarks/README.md)
	$(BIN)/python -m benchmarks

benchmark-gpu: environment ## Measure tokens per second on a GPU
	$(BIN)/python -m benchmarks.gpu

clean: ## Delete the results, not the environment
	rm -rf results alone

$(VENV)/study.done: envs/requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement envs/requirements.txt
	$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true # pip does it on one core; some files are templates
	@touch $@

$(VENV)/library.done: $(VENV)/study.done # Python reads *.pth: gatebook can be imported anywhere in this environment
	echo '$(CURDIR)/scripts' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gatebook.pth"
	@touch $@

$(VENV)/test.done: $(VENV)/library.done envs/requirements-test.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement envs/requirements-test.txt
	@touch $@
