# The targets that the README and CI use.
CARGO ?= cargo

# The adapters that have tests against the real servers, and those tests.
ADAPTERS = kafka,redis,s3,services-tests
ADAPTER_TESTS = --test ports_log_kafka --test ports_routes_redis --test ports_snapshots_s3 --test services \
	--test cluster_one --test cluster_faults --test cluster_clients

.PHONY: run test test-adapters test-pages check bench sim

run:            ## the exchange on embedded parts, at http://127.0.0.1:8080
	$(CARGO) run --release

test:           ## every test
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked
	$(MAKE) test-adapters test-pages

test-adapters:  ## the adapters against real servers, which are fetched and started here (README.md)
	scripts/services install kafka redis s3 python
	$(CARGO) clippy --all-targets --locked --features $(ADAPTERS) -- -D warnings
	$(CARGO) test --locked --features $(ADAPTERS) $(ADAPTER_TESTS)

test-pages:     ## the pages in a real browser, which is fetched and started here (README.md)
	scripts/services install browser
	$(CARGO) clippy --tests --locked --features browser-tests -- -D warnings
	$(CARGO) test --locked --features browser-tests --test pages_browser

check: test     ## what a commit must pass: tests, and licences, bans, sources and advisories of the crates (deny.toml)
	scripts/deny

sim:            ## 20,000 seeds of the simulator
	$(CARGO) build --release --locked
	target/release/hotbook sim --seeds 20000

bench:          ## every benchmark, each beside its baseline of the same run
	$(CARGO) build --release --locked
	target/release/hotbook bench engine A
	target/release/hotbook bench engine B
	target/release/hotbook bench engine C
	target/release/hotbook bench actor B
	target/release/hotbook bench order-entry
	target/release/hotbook bench migration
	target/release/hotbook bench moves
	target/release/hotbook bench recovery
	target/release/hotbook bench snapshot
	target/release/hotbook bench scale
