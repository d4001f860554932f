# Every task of this repository. Each sets up what it needs; what was fetched is kept in .cache/, what was built in target/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

FLEET ?= envoy/standalone/greenthread.yaml
TARGET := $(or $(CARGO_TARGET_DIR),target)
MODULE := $(abspath $(TARGET))/module/greenthread.wasm
PYTHON := .cache/venv/bin/python
DENY_VERSION := 0.20.2
# Of exactly this version: its file's format changes.
DENY = PATH="$$PWD/.cache/cargo-deny/bin:$$PATH" cargo deny

# One sentence for what is missing, before anything else is tried.
define need
command -v $(1) >/dev/null || { echo "make $@: $(1) is missing; $(2)" >&2; exit 1; }
endef
need_rust = $(call need,cargo,install rustup from https://rustup.rs); $(call need,cc,install a C compiler (Debian: apt-get install gcc libc6-dev))
need_python = $(call need,python3,install Python 3.9 or newer with venv (Debian: apt-get install python3-venv))

.PHONY: help
help: ## list the tasks
	@echo "make run    starts everything on this machine, without a GPU; make test proves it"; echo
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }' | sed 's/make   */make /'

.PHONY: run
run: build filter envoy ## start Envoy, control and simulated engines (FLEET=file.yaml for another fleet)
	@ENVOY="$$(envoy/fetch.sh)" GREENTHREAD_MODULE="$(MODULE)" exec $(TARGET)/debug/greenthread up $(FLEET)

.PHONY: build
build: ## build the greenthread program and engine-sim
	@$(need_rust)
	@cargo build --locked --package greenthread-control --package greenthread-tests --bins

.PHONY: filter
filter: ## build the wasm module for Envoy
	@$(need_rust)
	@filter/build.sh "$(patsubst %/,%,$(dir $(MODULE)))"

.PHONY: envoy
envoy: ## find an Envoy, or fetch one
	@echo "envoy: $$(envoy/fetch.sh)"

.PHONY: test
test: test-rust simulate exhaustive sabotage test-e2e ## run every test that needs no GPU and no vLLM

.PHONY: test-rust
test-rust: ## run the tests of the Rust code
	@$(need_rust)
	@cargo test --locked --workspace

.PHONY: simulate
simulate: ## run the core and the gates through a million steps of virtual time and faults (SIM_SEED=n for one history)
	@$(need_rust)
	@cargo run --quiet --locked --release --package greenthread-simulation -- --steps 1500000

.PHONY: simulate-long
simulate-long: ## the same for ten million steps
	@$(need_rust)
	@cargo run --quiet --locked --release --package greenthread-simulation -- --steps 12000000

.PHONY: exhaustive
exhaustive: ## explore every reachable state of the drain protocol, row by row (ARGS='--only TEXT' for some rows)
	@$(need_rust)
	@cargo run --quiet --locked --release --package greenthread-exhaustive -- $(ARGS)

.PHONY: exhaustive-long
exhaustive-long: ## the same with a later end of the clock (several minutes, up to 6 GB of memory)
	@$(need_rust)
	@cargo run --quiet --locked --release --package greenthread-exhaustive -- --long $(ARGS)

# Wrong logic on purpose is compiled for this alone; core and filter once for both.
.PHONY: sabotage
sabotage: ## see that the simulation and the exhaustive check fail for every line of wrong logic that is known
	@$(need_rust)
	@cargo test --quiet --locked --release --package greenthread-simulation --package greenthread-exhaustive \
	  --features greenthread-simulation/sabotage,greenthread-exhaustive/sabotage --test sabotage -- --nocapture

.PHONY: test-e2e
test-e2e: build filter envoy $(PYTHON) ## run the end-to-end tests with a real Envoy (ARGS=test_paths.py, or any of pytest, for some)
	@export ENVOY="$$(envoy/fetch.sh)" GREENTHREAD_MODULE="$(MODULE)" GREENTHREAD_BINARIES="$(abspath $(TARGET))/debug"; \
	  cd tests/e2e && $(abspath $(PYTHON)) -m pytest -p no:cacheprovider $(ARGS)

.PHONY: test-vllm
test-vllm: build filter envoy $(PYTHON) ## run the contract and the whole path against real vLLMs on the CPU (about 6 minutes; installs 7 GB, once)
	@$(need_rust)
	@$(need_python)
	@ENVOY="$$(envoy/fetch.sh)" GREENTHREAD_MODULE="$(MODULE)" GREENTHREAD_BINARIES="$(abspath $(TARGET))/debug" \
	  tests/vllm/test-vllm.sh $(PYTHON)

# Rebuilt when the pinned requirements change.
$(PYTHON): tests/e2e/requirements.txt
	@$(need_python)
	@python3 -m venv .cache/venv || { echo "make: python3 has no venv; install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.PHONY: bench
bench: ## measure a step of the core in a large fleet, and its memory over a simulated month (on a machine with nothing else to do)
	@$(need_rust)
	@cargo bench --locked --package greenthread-core --bench step

.PHONY: lint
lint: ## check formatting, lints, licences and dependencies
	@$(need_rust)
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/wasm32-wasip1" ] || timeout 30 rustup target add wasm32-wasip1; then \
	  echo cargo clippy --package greenthread-filter --target wasm32-wasip1; \
	  cargo clippy --locked --package greenthread-filter --lib --target wasm32-wasip1 -- -D warnings; \
	else echo "lint: the target wasm32-wasip1 cannot be installed: the wasm half of the filter is not linted" >&2; fi
	@$(MAKE) --no-print-directory deny shell

.PHONY: deny
deny:
	@$(need_rust)
	@[ "$$($(DENY) --version 2>/dev/null)" = "cargo-deny $(DENY_VERSION)" ] || { \
	  echo "lint: building cargo-deny $(DENY_VERSION), once, into .cache/"; \
	  cargo install --quiet --locked --no-default-features --version $(DENY_VERSION) --root .cache/cargo-deny cargo-deny; }
	$(DENY) --locked check bans licenses sources
	@if timeout 20 git ls-remote --quiet https://github.com/rustsec/advisory-db HEAD >/dev/null 2>&1; then \
	  $(DENY) --locked check advisories; \
	else echo "lint: the advisory database cannot be reached: advisories are not checked" >&2; fi

.PHONY: shell
shell:
	@if command -v shellcheck >/dev/null; then git ls-files '*.sh' .ci/run | xargs -r shellcheck; \
	else echo "lint: shellcheck is not installed: shell scripts are not checked" >&2; fi
