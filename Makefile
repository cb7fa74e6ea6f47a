# Everything a developer runs. `make help` lists it.

# The version the binary reports: the nearest tag without its v, and how far
# from it this tree is. Outside a git checkout there is only "devel".
VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v\([0-9]\)/\1/'),devel)

# What we build for. The notices cover exactly what is linked for these.
TARGETS ?= windows/amd64 windows/arm64 windows/386 linux/amd64 linux/arm64 darwin/arm64

# How long each fuzz target runs.
FUZZTIME ?= 10s

# Extra flags for `go test`, as in: make test TESTFLAGS='-run Verify'
TESTFLAGS ?=

# Binaries depend on the sources and the Go version alone: no paths of the
# building machine (-trimpath), no repository state but VERSION (-buildvcs).
GOBUILD := go build -trimpath -buildvcs=false
GORUN   := go run -buildvcs=false
GOTOOL  := go tool -modfile=tools/go.mod

# pkgname: a line per package while they run, then the skipped tests with their
# reasons, the failed ones with their output, and one line of totals.
GOTESTSUM := $(GOTOOL) gotestsum --format pkgname --format-hide-empty-pkg --

.DEFAULT_GOAL := build

.PHONY: build
build: ## build ./bin/prestage
	CGO_ENABLED=0 $(GOBUILD) -ldflags '-X main.version=$(VERSION)' -o bin/prestage ./cmd/prestage

.PHONY: demo
demo: build ## show the product at work, in a folder of its own
	bash scripts/demo.sh

# -count=1: go's test cache does not see a program appear in /usr/bin, so it
# would repeat yesterday's skip after today's install.
.PHONY: test
test: deps ## run every test; at the end name the skipped ones and why
	$(GOTESTSUM) -count=1 -timeout 40m $(TESTFLAGS) ./...

.PHONY: test-short
test-short: ## run the quick tests only, cached results included
	$(GOTESTSUM) -short $(TESTFLAGS) ./...

.PHONY: race
race: ## run the quick tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -short -timeout 40m $(TESTFLAGS) ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	FUZZTIME=$(FUZZTIME) bash scripts/fuzz.sh

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, shellcheck, go mod tidy, govulncheck
	bash scripts/lint.sh

.PHONY: size-check
size-check: ## fail if a committed file is over 1 MiB
	bash scripts/size-check.sh

# go build ./... compiles every package, not only those the binary links.
.PHONY: cross
cross: ## build for every platform in TARGETS
	@set -e; for t in $(TARGETS); do \
		echo "building for $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GOBUILD) ./...; \
	done

.PHONY: bench
bench: build ## measure against the budgets, side by side with other tools
	bash bench/run.sh

.PHONY: dist
dist: notices-check ## archives, Client.MSI, .deb, .rpm and SHA256SUMS into ./dist, reproducible
	rm -rf dist
	$(GORUN) ./scripts/dist -version '$(VERSION)' -out dist $(sort $(TARGETS) windows/386)

.PHONY: msi
msi: ## only Client.MSI for x64, with its program, into ./dist
	rm -rf dist
	$(GORUN) ./scripts/dist -version '$(VERSION)' -out dist windows/amd64

.PHONY: notices
notices: ## write THIRD_PARTY_NOTICES.md from the modules we link
	$(GORUN) ./scripts/notices $(TARGETS)

.PHONY: notices-check
notices-check: ## fail if THIRD_PARTY_NOTICES.md is out of date
	$(GORUN) ./scripts/notices -check $(TARGETS)

# Without the packages the tests still run, and say what they had to leave out.
.PHONY: deps
deps: ## install the Debian packages the tests need, where allowed
	@bash scripts/deps.sh || true

.PHONY: clean
clean: ## remove what the other targets built
	rm -rf bin dist

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
