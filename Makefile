# The targets that the README and CI use.
CARGO ?= cargo

# What is tested against real servers and in a real browser, and those tests. One set of features: they are built once.
OUTSIDE = kafka,msk,redis,s3,services-tests,browser-tests,host-tests
OUTSIDE_TESTS = --test ports_log_kafka --test ports_log_kafka_secure --test ports_routes_redis --test redis_exchange --test ports_snapshots_s3 \
	--test services --test cluster_one --test cluster_faults --test cluster_clients --test cluster_three \
	--test cluster_gateway --test cluster_placement --test cluster_standby --test chaos --test dev_cluster --test pages_browser

HOST_TESTS = --test host_links --test host_network

.PHONY: run test test-outside host-permits test-host chaos check bench sim

run:            ## the exchange on embedded parts, at http://127.0.0.1:8080
	$(CARGO) run --release

test:           ## every test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked
	$(MAKE) test-outside

test-outside:   ## real servers and a real browser, which are fetched and started here (README.md)
	scripts/services install kafka redis s3 python browser
	$(CARGO) clippy --all-targets --locked --features $(OUTSIDE) -- -D warnings
	$(CARGO) test --locked --features $(OUTSIDE) $(OUTSIDE_TESTS)

host-permits:   ## whether test-host can be run here; says what is missing
	@unshare --net true || { echo "make test-host takes root with network namespaces, which this user has not here" >&2; exit 1; }
	@test -c /dev/net/tun || { echo "make test-host takes /dev/net/tun, which is not here (the kernel's module tun)" >&2; exit 1; }

test-host: host-permits ## what takes root: nodes in network namespaces, cut off from each other and from what they stand on
	scripts/services install kafka redis s3
	$(CARGO) test --locked --features $(OUTSIDE) $(HOST_TESTS) -- --test-threads=1 --nocapture

chaos:          ## a hundred faults on a cluster, nothing lost after each; HOTBOOK_CHAOS_SEED chooses others (docs/harness.md)
	scripts/services install kafka redis s3
	HOTBOOK_CHAOS_FAULTS=$${HOTBOOK_CHAOS_FAULTS:-100} $(CARGO) test --locked --features $(OUTSIDE) --test chaos -- --nocapture

check: test     ## what a commit must pass: tests, and licences, bans, sources and advisories of the crates (deny.toml)
	scripts/deny

sim:            ## 20,000 seeds of the simulator
	$(CARGO) build --release --locked
	target/release/hotbook sim --seeds 20000

bench:          ## every benchmark that needs no service, each beside its baseline of the same run
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
