# Fuzzing, some seconds for each target, from the captured seeds.
# shellcheck shell=bash

step fuzz "each fuzz target, for ${PORTLEASE_FUZZ_SECONDS:-5} s"
step_fuzz() {
    local target failed=()
    cargo +nightly fuzz --version >/dev/null 2>&1 ||
        skip_step "a nightly toolchain or cargo-fuzz is not installed"
    run cargo +nightly fuzz build --fuzz-dir fuzz --sanitizer none
    for target in fuzz/seeds/*/; do
        target=$(basename "$target")
        mkdir -p "$scratch/corpus/$target"
        run cargo +nightly fuzz run --fuzz-dir fuzz --sanitizer none "$target" \
            "$scratch/corpus/$target" "fuzz/seeds/$target" -- \
            -max_total_time="${PORTLEASE_FUZZ_SECONDS:-5}" -verbosity=0 || failed+=("$target")
    done
    ((${#failed[@]} == 0)) || {
        echo "failed fuzz targets: ${failed[*]}" >&2
        return 1
    }
}
