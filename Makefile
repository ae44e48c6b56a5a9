# The two commands: `make demo` and `make test`, both as root. Each installs what it lacks.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build install demo demo-clean test unit loom e2e fuzz lint rooms clean

CARGO ?= cargo
# Debian packages: to build the BPF programs and their loader, and to run the lab.
BUILD_PACKAGES := clang llvm libelf-dev libpcap-dev zlib1g-dev m4 pkg-config make gcc libc6-dev linux-libc-dev
LAB_PACKAGES := iproute2 ethtool nftables iptables iputils-ping tcpdump nginx-light curl vsftpd lftp openssh-server openssh-client netcat-openbsd
# Waiting tests need no core, so there may be more threads than labs that work.
E2E_THREADS ?= 4
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
export XTPROXY_BIN := $(TARGET)/release

help: ## What there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

# The lab starts its own nginx; the package shall not start one on this machine (policy-rc.d).
deps: ## Install the Debian packages that are missing (as root)
	@lacking=(); \
	for package in $(BUILD_PACKAGES) $(LAB_PACKAGES); do \
		state=$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null || true); \
		[[ $$state == installed ]] || lacking+=("$$package"); \
	done; \
	if [[ $${#lacking[@]} -eq 0 ]]; then exit 0; fi; \
	echo "Installing $${lacking[*]}"; \
	if [[ $$(id -u) -ne 0 ]]; then echo "make: be root to install them" >&2; exit 1; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	for package in "$${lacking[@]}"; do \
		if ! apt-cache show "$$package" >/dev/null 2>&1; then apt-get update; break; fi; \
	done; \
	policy=/usr/sbin/policy-rc.d; \
	if [[ ! -e $$policy ]]; then \
		printf '#!/bin/sh\nexit 101\n' > $$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; \
	fi; \
	install=(apt-get install --yes --no-install-recommends "$${lacking[@]}"); \
	"$${install[@]}" || { apt-get update && "$${install[@]}"; }

build: deps ## Build everything that runs, with optimization
	$(CARGO) build --release --workspace --lib --bins --examples --features xtproxy-client/tokio

PREFIX ?= /usr/local
INCLUDE := $(DESTDIR)$(PREFIX)/include
LIB := $(DESTDIR)$(PREFIX)/lib
install: ## Copy programs, libraries and headers below PREFIX, once they are built
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/sbin $(XTPROXY_BIN)/xtproxyd $(XTPROXY_BIN)/xtproxy
	install -D -m 755 $(XTPROXY_BIN)/libxtproxy.so $(LIB)/libxtproxy.so.0
	ln -sf libxtproxy.so.0 $(LIB)/libxtproxy.so
	install -D -m 644 -t $(LIB) $(XTPROXY_BIN)/libxtproxy.a
	install -D -m 755 -t $(LIB) $(XTPROXY_BIN)/libxtproxy_preload.so
	install -D -m 644 -t $(INCLUDE) control/capi/include/xtproxy.h
	install -D -m 644 -t $(INCLUDE)/xtproxy control/capi/include/ip_tproxy.h
	install -D -m 644 -t $(INCLUDE)/xtproxy/linux/netfilter_ipv4 control/capi/include/ip_tproxy.h
	install -d $(LIB)/pkgconfig
	sed -e 's|@prefix@|$(PREFIX)|' -e 's|@libdir@|$(PREFIX)/lib|' -e 's|@includedir@|$(PREFIX)/include|' \
		-e "s|@version@|$$($(CARGO) pkgid -p xtproxy-capi | sed 's/.*[#@]//')|" \
		control/capi/xtproxy.pc.in > $(LIB)/pkgconfig/xtproxy.pc
	install -D -m 755 $(XTPROXY_BIN)/examples/relay $(DESTDIR)$(PREFIX)/bin/xtproxy-relay
	install -D -m 755 $(XTPROXY_BIN)/examples/ftp-proxy $(DESTDIR)$(PREFIX)/bin/xtproxy-ftp-proxy

demo: build ## Show a redirected connection from end to end; KEEP=1 leaves the lab standing
	$(XTPROXY_BIN)/demo

demo-clean: ## Remove what a demo left
	$(XTPROXY_BIN)/demo clean

test: lint unit e2e ## Every test, privileged ones included (as root)

unit: deps loom
	$(CARGO) test --workspace --exclude xtproxy-e2e --no-fail-fast

# Models of what is lock-free, with every interleaving that loom can tell apart.
LOOM_PACKAGES := xtproxy-tables xtproxy-xsk xtproxy-shm
loom: deps
	RUSTFLAGS="--cfg loom" $(CARGO) test --release --target-dir $(TARGET)/loom $(LOOM_PACKAGES:%=-p %) --lib models

e2e: build
	$(CARGO) test --release --package xtproxy-e2e --no-fail-fast -- --test-threads $(E2E_THREADS)

# Inputs that are new to it go below target/, what breaks something too; tests/fuzz/README.md.
MINUTES ?= 1
FUZZ_TARGETS ?= headers batches ruleset request channel registrations
FUZZ_DIR := $(TARGET)/fuzz
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
fuzz: BUILD_PACKAGES += g++
fuzz: deps ## Look for bytes that break what reads them; MINUTES=n for each target
	host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTFLAGS="$(FUZZ_FLAGS)" CARGO_TARGET_DIR=$(FUZZ_DIR) $(CARGO) build --release --target "$$host" \
		--manifest-path tests/fuzz/libfuzzer/Cargo.toml; \
	for target in $(FUZZ_TARGETS); do \
		mkdir -p "$(FUZZ_DIR)/corpus/$$target" "$(FUZZ_DIR)/broken/$$target"; \
		echo "Fuzzing $$target for $(MINUTES) min"; \
		"$(FUZZ_DIR)/$$host/release/$$target" -max_total_time=$$(( $(MINUTES) * 60 )) -max_len=4096 \
			-timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix="$(FUZZ_DIR)/broken/$$target/" \
			"$(FUZZ_DIR)/corpus/$$target" "tests/fuzz/corpus/$$target"; \
	done

lint: deps rooms ## Format, lints, and the arrows of docs/architecture.md
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

rooms: deps
	$(CARGO) run --quiet --package xtproxy-rooms

clean: ## Remove what was built
	$(CARGO) clean
