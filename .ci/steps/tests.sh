# The tests, on this system.
# shellcheck shell=bash

step test "all tests of all packages" prepare_tests
step_test() {
    run cargo test --workspace
}

step tokio "the tests of the feature tokio" prepare_tests
step_tokio() {
    run cargo test --features tokio --test tokio
}

step tokio-docs "the documentation's examples of the feature tokio"
step_tokio_docs() {
    run cargo test --features tokio --doc tokio
}

step nextest "the tests, with a process for each" prepare_tests
step_nextest() {
    cargo nextest --version >/dev/null 2>&1 || skip_step "cargo-nextest is not installed"
    run cargo nextest run --workspace
}

step nextest-tokio "the tests of the feature tokio, with a process for each" prepare_tests
step_nextest_tokio() {
    cargo nextest --version >/dev/null 2>&1 || skip_step "cargo-nextest is not installed"
    run cargo nextest run --features tokio --test tokio
}

step stress "processes that contend for ports, 4 s for each kind of server" prepare_tests
step_stress() {
    PORTLEASE_STRESS_SECONDS=4 run cargo test --quiet --release --test stress -- --nocapture
}

step bench "the benchmarks build"
step_bench() {
    run cargo bench --quiet --no-run
}
