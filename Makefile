# The targets that the README and CI use.
CARGO ?= cargo

.PHONY: run test check bench

run:            ## the exchange on embedded parts, at http://127.0.0.1:8080
	$(CARGO) run --release

test:           ## every test
	$(CARGO) test --locked

check:          ## what a commit must pass
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked
