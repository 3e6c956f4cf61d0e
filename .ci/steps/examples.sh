# What users copy.
# shellcheck shell=bash

step examples "the examples that need no argument" prepare_tests
step_examples() {
    local example failed=()
    for example in examples/*.rs; do
        example=$(basename "$example" .rs)
        case $example in preflight | who_holds) continue ;; esac
        run cargo run --quiet --example "$example" || failed+=("$example")
    done
    ((${#failed[@]} == 0)) || {
        echo "failed examples: ${failed[*]}" >&2
        return 1
    }
}

step suites "the example suites: frameworks, nextest, make, GitHub Actions" prepare_tests
step_suites() {
    run examples/suites/run
}
