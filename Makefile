# `make study` and `make test` need Python >= 3.11 and make; everything else they install into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: study test lint types slow long fuzz browser cluster faults audit api constraints clean \
	bench-training bench-networks bench-likelihood bench-data bench-opening bench-memory bench-orchestration bench-search bench-scale gpu-check gpu-pack

study: $(VENV)/installed  ## a whole study on the default corpus
	$(RUN)/study run --preset quick

test: $(VENV)/installed  ## the default tests, two at once
	$(RUN)/python -m pytest -q -n 2 --dist worksteal

lint: $(VENV)/installed
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/installed
	$(RUN)/mypy

slow: $(VENV)/installed  ## the tests that take a minute or more, but for the two that take several
	$(RUN)/python -m pytest -q -n 2 --dist worksteal -m 'slow and not long'

long: $(VENV)/installed  ## those two: a pooling added from outside, and the GPU's check rehearsed on the CPU
	$(RUN)/python -m pytest -q -n 2 -m 'slow and long'

fuzz: $(VENV)/installed  ## damaged files and edge values of options: FUZZ=2000 make fuzz tries so many
	FUZZ=$${FUZZ:-400} $(RUN)/python -m pytest -q -s -m fuzz

browser: $(VENV)/installed  ## the tests in Chromium (Debian's chromium and chromium-driver)
	$(RUN)/python -m pytest -q -m browser

cluster: $(VENV)/installed  ## on several hosts, and faults, but for those that take minutes; needs root, openssh-server, iproute2, rsync
	$(RUN)/python -m pytest -q -rs -m 'cluster and not long'

faults: $(VENV)/installed  ## all of that, and the table of what studies lived through; half an hour
	$(RUN)/python -m pytest -q -rs --durations 12 -m 'cluster or fault'

api: $(VENV)/installed  ## a page for each module, in docs/api; needs no network
	$(RUN)/pdoc --output-directory docs/api data model study

audit: $(VENV)/installed  ## known weaknesses of the pinned packages; needs the network
	$(RUN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench-training: $(VENV)/installed  ## a training step against its output product and the plain way
	$(RUN)/study corpus prepare chitchat --vocabulary-size 4000 --out corpora/chitchat-4000
	$(RUN)/python benchmarks/training_step.py

bench-networks: $(VENV)/installed  ## a training step of each kind of network against the plain one, and an LSTM's
	PYTHONPATH=. $(RUN)/python benchmarks/networks.py

bench-likelihood: $(VENV)/installed  ## few samples without their bias against 500, on MODEL=...
	$(RUN)/python benchmarks/likelihood.py $(MODEL)

bench-data: $(VENV)/installed  ## preparing text against Hugging Face datasets
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[benchmark]'
	$(RUN)/python benchmarks/preparing.py

bench-opening: $(VENV)/installed  ## opening a corpus of 1 GB for the first time, and again
	$(RUN)/python benchmarks/opening.py 1000

bench-memory: $(VENV)/installed  ## memory of driver and worker over 200 tiny trials
	$(RUN)/python benchmarks/memory.py

bench-orchestration: $(VENV)/installed  ## a study against its trials trained bare
	$(RUN)/python benchmarks/orchestration.py

bench-search: $(VENV)/installed  ## searchers and schedules over recorded learning curves
	$(RUN)/python benchmarks/search.py

bench-scale: $(VENV)/installed  ## a thousand trials that only report
	$(RUN)/python benchmarks/scale.py

GPU_PYTHON ?= 3.12
gpu-pack: $(VENV)/installed  ## what a GPU machine without a network may lack, for its Python: GPU_PYTHON=3.12
	rm -rf .gpu-packages
	$(RUN)/python -m pip install --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		--platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --target .gpu-packages \
		pydantic==$$($(RUN)/python -c 'import pydantic; print(pydantic.VERSION)') \
		pydantic-core==$$($(RUN)/python -c 'import pydantic_core; print(pydantic_core.__version__)') \
		annotated-types typing-inspection typing-extensions

gpu-check: $(VENV)/installed  ## everything that a GPU must show, in nine minutes; CHECK="--device cpu --quick" rehearses it
	PYTHON=$(RUN)/python sh benchmarks/gpu_check.sh $(CHECK)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,dashboard,cluster,remote,molecules]'
	touch $@

constraints:  ## refresh constraints.txt to the newest versions that pyproject.toml allows
	rm -rf $(VENV)-constraints
	$(PYTHON) -m venv $(VENV)-constraints
	$(VENV)-constraints/bin/python -m pip install --quiet --editable '.[dev,dashboard,cluster,remote,molecules,benchmark]'
	$(VENV)-constraints/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > constraints.txt
	rm -rf $(VENV)-constraints

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
