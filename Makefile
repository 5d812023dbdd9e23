# Everything from nothing: needs git, make, a shell and Python 3.11 or newer.
#   make quick    the environment, then every table, figure and the report at scale quick
#   make test     the environment, then the tests
#   make test-faults  kills and damages on this machine, docs/faults.md; some minutes
#   make test-slurm   the same on a SLURM started for it; needs root, else skipped with the reason
#   make figures  the environment, then tables, figures and report from the committed records, and
#                 docs/findings.md with the README's figure and table, and docs/beyond.md
#   make docs     the documentation as a site, in site/
# Others: env, lint, clean-env.

PYTHON ?= python3
CORES ?= all
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | tr ' ' -)
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: env quick test test-faults test-slurm lint figures docs clean-env

quick: env
	$(RUN) snakemake --cores $(CORES)

test: env
	$(RUN) pytest -q

test-faults: env
	$(RUN) pytest -n 0 -m slow -s tests/workflow/test_faults.py

test-slurm: env
	$(RUN) pytest -n 0 -m slow -rs tests/workflow/test_slurm.py

figures: env
	@$(RUN) python -m arfl render --runs $(wildcard records/*/) --paper workflow/resources/paper \
	  --out results/from-records
	@$(RUN) python -m arfl findings --runs $(wildcard records/*/) --paper workflow/resources/paper \
	  --out docs/findings.md --picture docs/figures/figure3.svg --page README.md
	@$(RUN) python -m arfl beyond --runs $(wildcard records/*/beyond/) \
	  --paper workflow/resources/paper --out docs/beyond.md --pictures docs/figures

# In an environment of its own: mkdocs is no part of what records are made with.
docs: env
	@test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && \
	  .venv-docs/bin/python -m pip install --quiet 'mkdocs>=1.6' 'mkdocs-material>=9.5'; }
	$(RUN) python docs/make_pages.py
	.venv-docs/bin/mkdocs build --strict --quiet

lint: env
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) snakemake --lint

env: $(STAMP)

# uv where there is one; else it is installed into the environment that it then fills. uv, because
# pip may pick up a CPU-only wheel of torch that cannot load torchvision. Bytecode is compiled here,
# since jobs are short and there are hundreds.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV) (about 3 GB to download the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@uv="$$(command -v uv || true)"; \
	if [ -z "$$uv" ]; then \
	  uv=$(VENV)/uv/bin/uv; \
	  test -x $$uv || $(BIN)/python -m pip install --quiet --target $(VENV)/uv uv; \
	fi && \
	VIRTUAL_ENV=$(VENV) "$$uv" pip sync --quiet --compile-bytecode --require-hashes requirements.lock && \
	VIRTUAL_ENV=$(VENV) "$$uv" pip install --quiet --no-deps --editable .
	@# Kernels of training, and of aggregating 10 and 100 clients; others are compiled when first met.
	@$(BIN)/python -c 'from arfl import aggregators; from arfl.kernels import cnn_cpu, fasttext_cpu, loannet_cpu; cnn_cpu.compile_kernels(); loannet_cpu.compile_kernels(); fasttext_cpu.compile_kernels(); aggregators.compile_kernels((10, 100))'
	@rm -f $(VENV)/.installed-* && touch $@

clean-env:
	rm -rf $(VENV) .venv-docs
