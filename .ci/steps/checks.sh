# Checks that build little or nothing.
# shellcheck shell=bash

step fetch "Cargo.lock is complete, and its crates are downloaded"
step_fetch() {
    run cargo fetch --locked
}

step fmt "rustfmt changes no file"
step_fmt() {
    cargo fmt --version >/dev/null 2>&1 || skip_step "rustfmt is not installed"
    run cargo fmt --all --check
}

step clippy "clippy has no warning in the workspace, with all targets and features"
step_clippy() {
    cargo clippy --version >/dev/null 2>&1 || skip_step "clippy is not installed"
    run cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
}

step doc "rustdoc has no warning"
step_doc() {
    RUSTDOCFLAGS="-D warnings" run cargo doc --quiet --no-deps --workspace --all-features
}

step shellcheck "shellcheck has no finding in the shell scripts" prepare_shellcheck
prepare_shellcheck() {
    has shellcheck || install_packages shellcheck || {
        skip shellcheck "not installed: $install_error"
        return 1
    }
}
step_shellcheck() {
    # With the files that .ci/run sources.
    run shellcheck --external-sources --check-sourced .ci/run .ci/cross .ci/kernels \
        .ci/environments .ci/guest/init .ci/guest/command .ci/minimal-versions \
        .ci/package action/check action/install examples/suites/run \
        examples/suites/parallel/check-app examples/suites/nextest/ports
}

step package "the library carries nothing of the command, and no new dependency"
# Every user of the library builds these: a new dependency is a decision, made here.
readonly LIBRARY_CRATES=(
    bitflags cfg-if fastrand libc linux-raw-sys lock_api once_cell parking_lot parking_lot_core
    portlease rustix scopeguard smallvec socket2 tempfile
)
step_package() {
    run cargo fetch --locked
    local files crates
    files=$(cargo package --list --allow-dirty --package portlease)
    grep --quiet '^src/lib.rs$' <<<"$files"
    if grep -E '^(cli|tools|tests|fuzz|benches)/' <<<"$files"; then
        echo "the library's package must not hold these files" >&2
        return 1
    fi

    echo "crates that the library builds on Linux (< listed in this step, > found):"
    crates=$(cargo tree --locked --package portlease --edges normal --prefix none \
        --target x86_64-unknown-linux-gnu --format '{p}' | cut -d ' ' -f 1 | LC_ALL=C sort -u)
    diff <(printf '%s\n' "${LIBRARY_CRATES[@]}") - <<<"$crates"

    echo "packages that a plain cargo build builds:"
    # The control: this command lists packages of the workspace other than the library.
    cargo tree --locked --workspace --depth 0 --prefix none | grep '^portlease-cli '
    diff <(echo portlease) <(cargo tree --locked --depth 0 --prefix none | cut -d ' ' -f 1)

    # Without the features of dependencies that the tests and the command enable.
    run cargo check --quiet --locked --package portlease
    run cargo check --quiet --locked --package portlease --all-features

    run cargo install --quiet --locked --offline --debug --path cli --root "$scratch/install"
    run "$scratch/install/bin/portlease" --version
}
