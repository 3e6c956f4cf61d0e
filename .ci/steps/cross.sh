# Other systems: their programs run under wine or qemu, or are only checked. docs/platforms.md says
# that shows.
# shellcheck shell=bash

# All steps together are to take 25 minutes. A target that would go beyond is skipped.
readonly CROSS_WITHIN=${PORTLEASE_CI_CROSS_WITHIN:-1440}

declare -A TARGET_SECONDS=() TARGET_COMMAND=()

# target NAME SECONDS ABOUT COMMAND...: a step that runs cargo COMMAND for the target.
#
# SECONDS is what it takes on two processors once it is prepared; preparing can take another minute.
target() {
    step "$1" "$3" prepare_target step_target
    TARGET_SECONDS[$1]=$2
    TARGET_COMMAND[$1]="${*:4}"
}

target x86_64-pc-windows-gnu 190 "the tests of the library and of the command under wine" \
    test -p portlease -p portlease-cli --lib --bin portlease --test it --test command
target x86_64-unknown-linux-musl 150 "the library's tests with musl" test --lib --test it
# An emulated processor is slow: docs/platforms.md names the tests that are run by hand instead.
target aarch64-unknown-linux-gnu 300 "the library's tests under qemu" \
    test --features tokio --lib --test it --test tokio -- \
    --test-threads=6 --skip linux::spawning --skip lock_folder::users --skip lock_folder::planted
target aarch64-apple-darwin 30 "clippy for macOS" clippy --workspace --lib --bins --test it
target x86_64-unknown-freebsd 30 "clippy for FreeBSD" clippy --workspace --lib --bins --test it
target x86_64-pc-windows-msvc 40 "clippy for Windows, Microsoft's linker" \
    clippy -p portlease -p portlease-cli --lib --bins --test it --test command
target x86_64-apple-darwin 30 "clippy for macOS on Intel" clippy --workspace --lib --bins
target x86_64-unknown-netbsd 30 "clippy for NetBSD" clippy --workspace --lib --bins

prepare_target() {
    local name=$1
    if [[ ! -e /etc/debian_version ]] || ((EUID != 0)); then
        skip "$name" "needs root on Debian"
        return 1
    elif ! target_fits "$name"; then
        skip "$name" "no time left"
        return 1
    # In the foreground, as in install_packages.
    elif ! timeout --kill-after=10 300 .ci/cross prepare "$name" >"$scratch/cross" 2>&1; then
        tail -n 5 "$scratch/cross" >&2
        skip "$name" "could not be prepared"
        return 1
    elif ! target_fits "$name"; then
        skip "$name" "no time left after it was prepared"
        return 1
    fi
}

target_fits() {
    ((SECONDS + TARGET_SECONDS[$1] <= CROSS_WITHIN))
}

step_target() {
    local name=$1 command
    read -ra command <<<"${TARGET_COMMAND[$name]}"
    if [[ ${command[0]} == clippy ]]; then
        run .ci/cross cargo "$name" clippy --quiet "${command[@]:1}" -- -D warnings
    else
        # Such a machine lacks programs that the tests use.
        export PORTLEASE_NO_SKIP=0
        if [[ $name == aarch64-* || $name == *-windows-* ]]; then
            run_emulated "$name" "${command[@]}"
        else
            run .ci/cross cargo "$name" "${command[@]}"
        fi
    fi
}

# Runs the tests under qemu or wine. A test that fails is run once more without others beside it,
# and its name is printed. The emulated processor is up to 50 times slower, so with six tests at a
# time some of their deadlines are too short. Wine sometimes starts no process beside others (error
# 1359). The step fails if such a test fails again.
run_emulated() {
    local name=$1 output=$scratch/emulated
    local -a failed
    local -a command=("${@:2}") before=()
    run .ci/cross cargo "$name" "${command[0]}" --no-fail-fast "${command[@]:1}" 2>&1 |
        tee "$output" && return 0
    mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$output" | sort -u)
    ((${#failed[@]})) || return 1
    echo "failed beside other tests, run again alone: ${failed[*]}"
    while [[ ${command[0]---} != -- ]]; do
        before+=("${command[0]}")
        command=("${command[@]:1}")
    done
    run .ci/cross cargo "$name" "${before[0]}" --no-fail-fast "${before[@]:1}" -- \
        --test-threads=1 --exact "${failed[@]}"
}
