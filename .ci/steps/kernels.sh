# Another kernel, and other environments. The nightly workflow runs more of both.
# shellcheck shell=bash

step kernel "Linux 6.1 in qemu: the facts that a claim relies on, and the command" prepare_kernel
prepare_kernel() {
    if [[ ! -e /etc/debian_version || $(uname -sm) != "Linux x86_64" ]] || ((EUID != 0)); then
        skip kernel "needs root on Debian on x86_64"
        return 1
    fi
    # In the foreground, as in install_packages.
    timeout --kill-after=10 300 .ci/kernels prepare >"$scratch/kernel" 2>&1 && return 0
    tail -n 5 "$scratch/kernel" >&2
    skip kernel "qemu, or a kernel for it, could not be had"
    return 1
}
step_kernel() {
    run .ci/kernels run -p facts,command -m 8 6.1
}

step environments "the command in sandboxes, where their tools are installed" prepare_tests
step_environments() {
    ((EUID == 0)) || skip_step "needs root"
    run cargo build --quiet --package portlease-cli
    # A check whose tool is missing is skipped by name.
    PORTLEASE_BINARY=${CARGO_TARGET_DIR:-target}/debug/portlease run .ci/environments
}
