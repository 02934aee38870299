# Thin on purpose: scripts/setup installs, xtask does. `make demo` and `make test` are all a newcomer needs.
# Nothing is built a second time on a machine that has built nothing yet: what that would need is not kept.
export CARGO_INCREMENTAL ?= $(if $(wildcard target/debug/incremental),1,0)

.PHONY: demo test bench soak up ci cover setup clean

demo: ## a command's output out of a real microVM
	scripts/setup demo
	cargo xtask demo

test: ## everything that must be green
	scripts/setup test
	cargo xtask ci

bench: ## numbers, written to bench/results/
	scripts/setup bench
	cargo xtask bench

soak: ## what does not fit in the budget of `test`
	scripts/setup test
	cargo xtask soak

up: ## control plane and agent on this machine, in the foreground
	scripts/setup demo
	cargo xtask up

ci: test

cover: ## line coverage of the crates that hold the laws
	scripts/setup cover
	cargo xtask cover

setup: ## only install
	scripts/setup test

clean: ## remove what was built; ends the demo instance first
	cargo xtask clean
