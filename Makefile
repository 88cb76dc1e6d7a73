# Every target sets up what it needs; a stamp is made again only when what it stands for changed.

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

VENV := .venv
BIN := $(VENV)/bin
# Name another interpreter with: make setup PYTHON=/path/to/python3
PYTHON ?=
LOCK_FLAGS ?=
# Such as --modules gmrf,flag --most 20 --again
MUTATION_FLAGS ?=
# Such as docs/tutorial.md
PAGES ?=
# Such as --quick, --repeats 3, --tables v1, --only map,torch-lbfgs
BENCH_FLAGS ?=
# Where the packages that `make bench` compares with are installed.
PEERS ?= $(VENV)/peers

CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3)

# A name on PATH may be a version manager's shim that does not run, so each candidate is tried.
define find_python
for python in $(CANDIDATES); do \
  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' \
      >/dev/null 2>&1; then found=$$python; break; fi; \
done; \
if [ -z "$$found" ]; then \
  echo "bayes-lrmf needs Python 3.12 or newer with venv; none of these is: $(CANDIDATES)" \
    "(python3 is $$(python3 --version 2>&1 | head -n 1))." \
    "Install it (.python-version names $$(cat .python-version)) or name one:" \
    "make setup PYTHON=/path/to/python3" >&2; \
  exit 1; \
fi
endef

.PHONY: setup demo docs docs-outputs test test-slow tools peers lint bench audit audit-tools licences coverage mutation lock clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.installed

$(VENV)/.locked: requirements.lock
	@$(find_python); \
	echo "Setting up $(VENV) with $$("$$found" --version); this takes a minute or two"; \
	"$$found" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check || { echo "requirements.lock lacks that: run make lock" >&2; exit 1; }
	@touch $@

demo: setup
	@$(BIN)/python -m analyses.demo

# Into build/site; the extra `docs` is in the lock file like all others.
docs: setup
	$(BIN)/mkdocs build --strict

# Runs the examples of PAGES, or of all pages, and writes anew the outputs that they show.
docs-outputs: setup
	@$(BIN)/python -m analyses.pages $(PAGES)

# Without `make peers` before it, it says which contestants are missing.
bench: setup
	@BAYES_LRMF_PEERS="$(PEERS)" $(BIN)/python -m analyses.bench $(BENCH_FLAGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Most of a small fit is compilation, and unoptimised code compiles in half the time; the slow
# tests and the demo run what users run.
test: lint
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
	  $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

# The evaluation tools whose files are read, for slow tests, in an environment of their own.
tools: $(VENV)/tools/.installed

$(VENV)/tools/.installed: requirements-tools.lock $(VENV)/.installed
	@$(BIN)/python -m venv --clear $(VENV)/tools
	@$(VENV)/tools/bin/python -m pip install --quiet uv
	@$(VENV)/tools/bin/uv pip install --quiet --python $(VENV)/tools/bin/python --no-config \
	  --require-hashes -r requirements-tools.lock
	@touch $@

# PyTorch and SMURFF, in an environment of their own. The registry's PyTorch for Linux brings CUDA
# and does not start without it: 5.5 GB on disk.
peers: $(PEERS)/.installed

$(PEERS)/.installed: requirements-peers.lock $(VENV)/.installed
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet uv
	@$(PEERS)/bin/uv pip install --quiet --python $(PEERS)/bin/python --no-config \
	  --require-hashes -r requirements-peers.lock
	@touch $@

# Known vulnerabilities of what the lock files name; says so and passes where no service answers.
audit: audit-tools
	@$(BIN)/python -m analyses.audit $(VENV)/audit/bin/pip-audit

audit-tools: $(VENV)/audit/.installed

$(VENV)/audit/.installed: requirements-audit.lock $(VENV)/.installed
	@$(BIN)/python -m venv --clear $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --require-hashes -r requirements-audit.lock
	@touch $@

licences: setup
	@$(BIN)/python -m analyses.licences

# How strong the tests are: lines and branches that fast tests run, and changes that they notice.
# What measures it stands in an environment of its own, which sees the other one's packages. The
# test left out limits the size of files, which what is measured would break as well.
coverage: $(VENV)/checks/.installed
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
	  $(VENV)/checks/bin/python -m pytest -q -n 2 -m "not slow" --cov --cov-report=term:skip-covered \
	  --cov-report=json:build/coverage.json \
	  --deselect tests/test_files.py::test_a_limit_on_the_size_of_files_is_an_error_of_one_line
	$(BIN)/python -m analyses.validation --coverage build/coverage.json

mutation: $(VENV)/checks/.installed
	$(VENV)/checks/bin/python -m analyses.mutation $(MUTATION_FLAGS)

$(VENV)/checks/.installed: requirements-checks.lock $(VENV)/.installed
	@$(BIN)/python -m venv --clear $(VENV)/checks
	@$(VENV)/checks/bin/python -m pip install --quiet --require-hashes -r requirements-checks.lock
	@$(VENV)/checks/bin/python -c "import pathlib, sysconfig as s; \
	  pathlib.Path(s.get_path('purelib'), 'locked.pth').write_text('$(CURDIR)\n' + \
	  s.get_path('purelib', vars={'base': '$(CURDIR)/$(VENV)'}))"
	@touch $@

test-slow: setup tools
	BAYES_LRMF_TOOLS=$(CURDIR)/$(VENV)/tools/bin $(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

# uv stays out of the environment it locks. Newest releases: make lock LOCK_FLAGS=--upgrade
lock:
	@$(find_python); "$$found" -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet uv
	$(VENV)/lock/bin/uv pip compile pyproject.toml --no-config --universal --generate-hashes \
	  --python-version 3.12 --all-extras --custom-compile-command "make lock" $(LOCK_FLAGS) \
	  --quiet --output-file requirements.lock
	$(VENV)/lock/bin/uv pip compile requirements-tools.in --no-config --universal \
	  --generate-hashes --python-version 3.12 --custom-compile-command "make lock" $(LOCK_FLAGS) \
	  --quiet --output-file requirements-tools.lock
	$(VENV)/lock/bin/uv pip compile requirements-peers.in --no-config --universal \
	  --generate-hashes --python-version 3.12 --custom-compile-command "make lock" $(LOCK_FLAGS) \
	  --quiet --output-file requirements-peers.lock
	$(VENV)/lock/bin/uv pip compile requirements-audit.in --no-config --universal \
	  --generate-hashes --python-version 3.12 --custom-compile-command "make lock" $(LOCK_FLAGS) \
	  --quiet --output-file requirements-audit.lock
	$(VENV)/lock/bin/uv pip compile requirements-checks.in --no-config --universal \
	  --generate-hashes --python-version 3.12 --custom-compile-command "make lock" $(LOCK_FLAGS) \
	  --quiet --output-file requirements-checks.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bayes_lrmf analyses tests -name __pycache__ -type d -prune -exec rm -rf {} +
