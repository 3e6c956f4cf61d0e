# What users copy.
# shellcheck shell=bash

step examples "the examples that run without an argument" prepare_tests
step_examples() {
    local example bad=()
    for example in real_servers hand_to_child hand_to_tokio_child dns_pair fixed_port; do
        run cargo run --quiet --example "$example" || bad+=("$example")
    done
    ((${#bad[@]} == 0)) || {
        echo "failed examples: ${bad[*]}" >&2
        return 1
    }
}

step suites "the example suites: frameworks, nextest, pytest, node" prepare_tests
step_suites() {
    run examples/suites/run
}
