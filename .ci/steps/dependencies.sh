# Other people's crates and compilers, and the last release.
# shellcheck shell=bash

step deny "licences and sources of the dependencies"
step_deny() {
    cargo deny --version >/dev/null 2>&1 || skip_step "cargo-deny is not installed"
    run cargo fetch --locked
    run cargo deny --offline check licenses bans sources
}

step advisories "security advisories on the dependencies"
step_advisories() {
    cargo deny --version >/dev/null 2>&1 || skip_step "cargo-deny is not installed"
    compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*" >/dev/null ||
        skip_step "the advisory database is not on this machine"
    run cargo fetch --locked
    run cargo deny --offline check advisories
}

step minimal-versions "each direct dependency at the lowest version that Cargo.toml admits"
step_minimal_versions() {
    cargo +nightly --version >/dev/null 2>&1 || skip_step "a nightly toolchain is not installed"
    run .ci/minimal-versions
}

step semver "the public API keeps what the last release promised"
step_semver() {
    local release
    release=$(git tag --list 'v*' --sort=-v:refname 2>/dev/null | head -n 1) || true
    [[ -n $release ]] || skip_step "there is no release yet"
    cargo semver-checks --version >/dev/null 2>&1 ||
        skip_step "cargo-semver-checks is not installed"
    run cargo semver-checks --package portlease --all-features --baseline-rev "$release"
}

step lowest-rust "the lowest Rust version that Cargo.toml promises"
step_lowest_rust() {
    local lowest
    lowest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    rustup run "$lowest" cargo --version >/dev/null 2>&1 ||
        skip_step "Rust $lowest is not installed"
    run cargo "+$lowest" check --quiet --lib --all-features
    run cargo "+$lowest" check --quiet --package portlease-cli
}
