# The targets that the README and CI use.
CARGO ?= cargo

.PHONY: run test check bench sim

run:            ## the exchange on embedded parts, at http://127.0.0.1:8080
	$(CARGO) run --release

test:           ## every test
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked

check: test     ## what a commit must pass

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
	target/release/hotbook bench scale
