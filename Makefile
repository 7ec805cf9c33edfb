# Each target sets up what it needs; the first call makes .venv and installs the tested versions.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-look test-engines notebooks check docs format clean

.venv/.installed: setup.cfg setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,plots,report,geo,app,onnx]'
	touch $@

demo: .venv/.installed ## a generated city: zero-shot, fine-tuned, beside counting
	$(BIN)/stmoe demo --output_dir demo

test: .venv/.installed ## the fast tests, under five minutes on two cores
	$(BIN)/python -m pytest -m 'not slow and not browser and not notebooks and not runtimes and not engines'

test-all: .venv/.installed ## the slow ones too
	$(BIN)/python -m pytest -m 'not engines'

test-engines: .venv/.installed ## on a real Ray and a real Spark (needs Java 17)
	$(BIN)/pip install -q -c constraints.txt -e '.[ray,spark]'
	$(BIN)/python -m pytest -m engines

test-look: .venv/.installed ## report and app in a browser (Debian: apt-get install chromium), the notebooks, exported networks
	STMOE_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m 'browser or notebooks or runtimes'

notebooks: .venv/.installed ## run the notebooks of examples/ anew, and keep what they show
	$(BIN)/python examples/execute.py

check: .venv/.installed ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs ## the site, into build/site
	$(BIN)/mkdocs build -q

.venv/.docs: .venv/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

format: .venv/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo build *.egg-info
