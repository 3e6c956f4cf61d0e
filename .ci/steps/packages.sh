# What is published beside the crates, built and used as a new user would: from the built files
# alone, in an empty environment.
# shellcheck shell=bash

readonly NATIVE=x86_64-unknown-linux-gnu
readonly PACKAGE_TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/portlease-ci/package-tools
readonly PACKAGE_TOOLS_OF_PYPI=(maturin wheel zizmor)
readonly PACKAGE_ENV=${XDG_CACHE_HOME:-$HOME/.cache}/portlease-ci/package-env

step python "the wheel, with pytest, pytest-xdist and pytest-asyncio" prepare_python
prepare_python() {
    prepare_native python || return 1
    has python3 && python3 -c 'import ensurepip' 2>/dev/null || install_packages python3 \
        python3-venv || {
        skip python "python3 with venv: $install_error"
        return 1
    }
    prepare_venv python "$PACKAGE_TOOLS" "${PACKAGE_TOOLS_OF_PYPI[@]}" || return 1
    prepare_venv python "$PACKAGE_ENV" mypy pytest pytest-xdist pytest-asyncio
}
step_python() {
    local wheels=$scratch/wheels fresh=$scratch/fresh
    PATH=$PACKAGE_TOOLS/bin:$PATH run .ci/package wheel "$NATIVE" "$wheels"
    python3 -m venv "$fresh"
    run "$fresh/bin/pip" --quiet install --no-index "$wheels"/*.whl
    echo "the lines of python/README.md, where nothing else is installed:"
    code_of python python/README.md >"$scratch/readme.py"
    (cd "$scratch" && "$fresh/bin/python" -I readme.py)

    run "$PACKAGE_ENV/bin/pip" --quiet install --no-index --force-reinstall "$wheels"/*.whl
    run "$PACKAGE_ENV/bin/mypy" --strict --no-error-summary --cache-dir "$scratch/mypy" \
        --package portlease
    # A copy, so that `import portlease` cannot find the sources.
    cp -r python/tests "$scratch/python-tests"
    (
        cd "$scratch/python-tests"
        export PYTHONDONTWRITEBYTECODE=1
        run "$PACKAGE_ENV/bin/pytest" -q -rs -W ignore -p no:cacheprovider
    )
    echo "examples/suites/python, with four workers:"
    run "$PACKAGE_ENV/bin/pytest" -q -n 4 -W ignore -p no:cacheprovider examples/suites/python
}

step npm "the packages for npm, with node --test at concurrency 8" prepare_npm
prepare_npm() {
    prepare_native npm || return 1
    has npm && node --test /dev/null >/dev/null 2>&1 && return 0
    skip npm "npm or node 20 is not installed"
    return 1
}
step_npm() {
    local packed=$scratch/packed fresh=$scratch/node suites=$PWD/examples/suites n
    run .ci/package npm "$NATIVE" "$packed"
    mkdir "$fresh"
    cp -r npm/test "$fresh"
    code_of js npm/README.md >"$fresh/readme.mjs"
    cd "$fresh"
    npm init --yes >/dev/null
    # Offline, so that nothing but these files is installed.
    run npm install --offline --no-audit --no-fund --silent "$packed"/*.tgz
    echo "the lines of npm/README.md:"
    node readme.mjs
    run node --test --test-concurrency=8 test/*.test.mjs
    # Four copies of a file are four workers.
    for n in 1 2 3 4; do
        install -D "$suites/node/app.test.mjs" "app$n.test.mjs"
        install -D "$suites/vitest/app.test.mjs" "vitest/app$n.test.mjs"
    done
    echo "examples/suites/node, with four workers:"
    run node --test --test-concurrency=4 app?.test.mjs
    if install_peer typescript typescript @types/node; then
        run npx --offline tsc --noEmit --strict --module nodenext --types node \
            --lib es2022,esnext.disposable test/types.mts test/types.cts
    fi
    if install_peer vitest vitest; then
        run npx --offline vitest run --dir vitest
    fi
    if install_peer playwright @playwright/test; then
        cp -r "$suites/playwright" .
        (cd playwright && run npx --offline playwright test --reporter=line)
    fi
}

# install_peer NAME PACKAGE...: installs packages of others into the current project.
install_peer() {
    timeout 120 npm install --no-audit --no-fund --silent --ignore-scripts "${@:2}" && return 0
    skip "npm-$1" "could not be installed"
    return 1
}

step action "the GitHub Action, with the archive of a release" prepare_action
prepare_action() {
    prepare_native action && prepare_venv action "$PACKAGE_TOOLS" "${PACKAGE_TOOLS_OF_PYPI[@]}"
}
step_action() {
    local releases=$scratch/releases port
    run "$PACKAGE_TOOLS/bin/zizmor" --offline --quiet .github action
    run .ci/package archive "$NATIVE" "$releases/v$(version)"
    (cd "$releases/v$(version)" && sha256sum -- * >SHA256SUMS)
    grep --quiet "^    default: $(version)\$" action/action.yml
    export RUNNER_TEMP=$scratch GITHUB_PATH=$scratch/path GITHUB_STEP_SUMMARY=$scratch/summary
    INSTALL_VERSION=$(version) PORTLEASE_RELEASES=file://$releases run action/install
    PATH=$(cat "$GITHUB_PATH"):$PATH
    export CHECK_WAIT=0s CHECK_PORTS
    port=$(portlease reserve)
    CHECK_PORTS="$port $port/udp" run action/check
    grep 'All are free' "$GITHUB_STEP_SUMMARY"
    python3 -c 'import signal, socket, sys
socket = socket.create_server(("127.0.0.1", int(sys.argv[1]))); signal.pause()' "$port" &
    portlease wait --listening --pid $! "$port"
    CHECK_PORTS=$port action/check && return 1
    grep "python3 (pid $!) listens on" "$GITHUB_STEP_SUMMARY"
    kill $!
    portlease release "$port"
    # An archive that was changed is not installed.
    echo >>"$releases/v$(version)/SHA256SUMS"
    sed -i 's/^..../0000/' "$releases/v$(version)/SHA256SUMS"
    INSTALL_VERSION=$(version) PORTLEASE_RELEASES=file://$releases action/install && return 1
    return 0
}

step deb "the package for Debian, with lintian" prepare_deb
prepare_deb() {
    prepare_native deb || return 1
    has lintian || install_packages lintian || {
        skip deb "lintian: $install_error"
        return 1
    }
}
step_deb() {
    run .ci/package deb "$NATIVE" "$scratch/deb"
    run lintian --fail-on error,warning --suppress-tags bogus-mail-host "$scratch/deb"/*.deb
    dpkg-deb --extract "$scratch/deb"/*.deb "$scratch/root"
    run "$scratch/root/usr/bin/portlease" --version
    zgrep --quiet '^\.TH portlease' "$scratch/root/usr/share/man/man1/portlease-run.1.gz"
}

version() {
    sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml
}

# The packages are for Linux, and the tests run the built command.
prepare_native() {
    [[ $(uname -sm) == "Linux x86_64" ]] && return 0
    skip "$1" "not Linux on x86_64"
    return 1
}

# prepare_venv STEP FOLDER PACKAGE...: an environment outside the checkout, kept for the next run.
prepare_venv() {
    [[ $(cat "$2/packages" 2>/dev/null) != "${*:3}" ]] || return 0
    job 300 fill_venv "${@:2}" >"$scratch/pip" 2>&1 && return 0
    tail -n 3 "$scratch/pip" >&2
    skip "$1" "could not be installed: ${*:3}"
    return 1
}

fill_venv() {
    python3 -m venv --clear "$1"
    "$1/bin/pip" --quiet install "${@:2}"
    echo "${*:2}" >"$1/packages"
}

# code_of LANGUAGE FILE: the first block of code of a text.
code_of() {
    sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" "$2" | grep .
}
