# The two commands of the README, and what continuous integration runs. Each installs what it needs.

CARGO ?= cargo
# Test runner: nextest where it is installed.
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: run test oracle fuzz bench instructions versions suites lint fmt tools demo-tools clean

## Build, and show the product doing its job against a private PostgreSQL. Ctrl-C stops it.
run: demo-tools
	$(CARGO) build --release --locked
	./target/release/turnstile demo

## All tests, real PostgreSQL and PgBouncer included.
test: tools
ifeq ($(NEXTEST),yes)
	PATH="$$PATH:/usr/sbin" $(CARGO) nextest run --workspace --locked
else
	PATH="$$PATH:/usr/sbin" $(CARGO) test --workspace --locked
endif

## Random programs against the truth that triggers note: make oracle PROGRAMS=5000..9000
PROGRAMS ?= 10000..18000
oracle: tools
	ORACLE_PROGRAMS=$(PROGRAMS) PATH="$$PATH:/usr/sbin" $(CARGO) test --locked --test it oracle::programs_by_name -- --nocapture

## The contenders against each other, 40 minutes: writes benches/RESULTS.md. Five minutes, into target/bench: make bench
## QUICK=1. Some loads only: make bench ONLY=select SECONDS_EACH=3 REPETITIONS=9
SECONDS_EACH ?= $(if $(QUICK),0.4,1)
REPETITIONS ?= $(if $(QUICK),3,5)
bench: tools
	./scripts/install-tools.sh haproxy
	$(CARGO) build --release --locked --package pg-turnstile --package turnstile-bench
	PATH="$$PATH:/usr/sbin" ./target/release/turnstile-bench \
		--seconds $(SECONDS_EACH) --repetitions $(REPETITIONS) --pgbouncer "$${PGBOUNCER_NEW:-target/tools/pgbouncer/pgbouncer}" \
		$(if $(QUICK),--quick) $(if $(ONLY),--only "$(ONLY)") $(if $(QUICK)$(ONLY),--results target/bench)

## What framing, session and analysis cost, in instructions, against benches/instructions.txt; where more is meant:
## UPDATE_EXPECT=1 make instructions
instructions:
	./scripts/install-tools.sh valgrind
	$(CARGO) run --release --locked --package turnstile-bench -- instructions

## Any bytes into framing, session or sql, guided by coverage: make fuzz TARGET=sql SECONDS=600
TARGET ?= session
SECONDS ?= 60
COVERAGE = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
fuzz:
	mkdir -p tests/fuzz/corpus/$(TARGET)
	RUSTFLAGS="$(COVERAGE)" $(CARGO) run --release --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz \
		--target $(shell rustc -vV | sed -n 's/^host: //p') --bin $(TARGET) -- \
		-max_total_time=$(SECONDS) -rss_limit_mb=2048 -timeout=10 tests/fuzz/corpus/$(TARGET) fixtures/fuzz/$(TARGET)

## The tests against real servers, with each of these PostgreSQL versions: make versions VERSIONS="17 18"
VERSIONS ?= 14 16 17 18
versions: tools
	./scripts/fetch-postgres.sh target/tools/postgres $(VERSIONS) >/dev/null
	@for version in $(VERSIONS); do \
		echo "== PostgreSQL $$version"; \
		PATH="$(CURDIR)/target/tools/postgres/$$version/native/bin:$$PATH:/usr/sbin" \
			$(CARGO) test --locked --test it -- --skip hot_standby --skip a_dump_of_an_old --skip pg_upgrade || exit 1; \
	done

## Real suites directly and through Turnstile, one table: psql, pg_dump, pgbench, six drivers; with a built source tree of
## PostgreSQL its regression, isolation and libpq_pipeline tests too: make suites POSTGRES_BUILD=… SUITES="regress drivers"
suites: demo-tools
	$(CARGO) build --release --locked
	POSTGRES_BUILD="$(POSTGRES_BUILD)" ./tests/suites/run.sh $(SUITES)

## Format and lints, as errors.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path tests/fuzz/Cargo.toml --check
	for driver in sqlx tokio_postgres; do $(CARGO) fmt --manifest-path tests/suites/drivers/$$driver/Cargo.toml --check || exit 1; done
	$(CARGO) clippy --workspace --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

## Put the sources into format.
fmt:
	$(CARGO) fmt --all

demo-tools:
	./scripts/install-tools.sh

# Tests go through an old and a new PgBouncer: the system's, and one with max_prepared_statements.
tools: demo-tools
	@if [ -z "$$PGBOUNCER_NEW" ]; then ./scripts/fetch-pgbouncer.sh target/tools/pgbouncer >/dev/null; fi

clean:
	$(CARGO) clean
