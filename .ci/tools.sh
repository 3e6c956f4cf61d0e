# Installs what steps need: Debian packages as root, and packages for Python and Node in folders of
# their own outside the checkout.
# shellcheck shell=bash

# What the tests use, and the Debian package that has it.
readonly TOOLS=(
    redis-server:redis-server nginx:nginx-light python3:python3 node:nodejs initdb:postgresql
    dnsmasq:dnsmasq-base memcached:memcached erl:erlang-base zsh:zsh busybox:busybox
    faketime:faketime nft:nftables strace:strace lsof:lsof ss:iproute2 unshare:util-linux
    setpriv:util-linux runsv:runit s6-svc:s6 svc:daemontools supervisord:supervisor
)

has() {
    [[ -n $(PATH=$PATH:/usr/sbin:/sbin type -P "$1") ]] ||
        compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

missing_packages() {
    local tool
    for tool in "${TOOLS[@]}"; do has "${tool%%:*}" || echo "${tool#*:}"; done | sort -u
    # Debian's python3 has venv in a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

policy='' install_error=''

# Debian's install scripts ask policy-rc.d before they start a server; 101 forbids it.
forbid_services() {
    local file=/usr/sbin/policy-rc.d
    if [[ -e $file ]]; then
        "$file" portlease-ci start >/dev/null 2>&1
        (($? == 101))
    else
        policy=$file
        printf '#!/bin/sh\nexit 101\n' >"$file" && chmod 755 "$file"
    fi
}

allow_services() {
    [[ -z $policy ]] || rm -f "$policy"
    policy=''
}

# install_packages PACKAGE...: fails with the reason in install_error.
#
# It runs in the foreground, so Ctrl-C takes effect afterwards: an interrupted dpkg has to be
# repaired by hand.
install_packages() {
    local apt=(apt-get --quiet --yes --no-install-recommends -o Dpkg::Use-Pty=0)
    apt+=(-o DPkg::Lock::Timeout=120)
    if ((EUID != 0)) || ! has apt-get; then
        install_error="not root on Debian"
        return 1
    elif ! forbid_services; then
        install_error="this machine's policy-rc.d would start services"
        return 1
    fi
    echo "-- packages: $*"
    (
        export DEBIAN_FRONTEND=noninteractive
        timeout 300 "${apt[@]}" install "$@" ||
            { timeout 120 "${apt[@]}" update && timeout 300 "${apt[@]}" install "$@"; }
    ) >"$scratch/apt" 2>&1
    local status=$?
    allow_services
    ((status == 0)) || tail -n 20 "$scratch/apt" >&2
    install_error="could not be installed"
    return "$status"
}

install_tools() {
    local wanted
    mapfile -t wanted < <(missing_packages)
    ((${#wanted[@]} > 0)) || return 0
    install_packages "${wanted[@]}"
    mapfile -t wanted < <(missing_packages)
    ((${#wanted[@]} == 0)) || skip packages "$install_error, missing: ${wanted[*]}"
}

readonly VENV=${XDG_CACHE_HOME:-$HOME/.cache}/portlease-ci/venv
readonly PYTHON_PACKAGES=(uvicorn gunicorn portpicker watchdog honcho)

has_python_packages() {
    local IFS=,
    "$VENV/bin/python" -c "import ${PYTHON_PACKAGES[*]}" 2>/dev/null
}

install_python_packages() {
    python3 -m venv --clear "$VENV" &&
        "$VENV/bin/pip" --quiet install "${PYTHON_PACKAGES[@]}"
}

readonly NODE_FOLDER=${XDG_CACHE_HOME:-$HOME/.cache}/portlease-ci/node
readonly NODE_PACKAGES=(nodemon pm2)

has_node_packages() {
    local package
    for package in "${NODE_PACKAGES[@]}"; do
        [[ -x $NODE_FOLDER/node_modules/.bin/$package ]] || return 1
    done
}

install_node_packages() {
    mkdir -p "$NODE_FOLDER" &&
        npm install --prefix "$NODE_FOLDER" --no-audit --no-fund --silent --ignore-scripts \
            "${NODE_PACKAGES[@]}"
}

# Prepares the steps that run tests, once. The tests skip by name what is still missing.
prepare_tests() {
    [[ -z ${tests_prepared:-} ]] || return 0
    tests_prepared=1
    install_tools
    # Where nothing is missing and namespaces and tracing work, no test has a reason to skip.
    if ((EUID == 0)) && [[ -e /etc/debian_version && -z $(missing_packages) ]] &&
        unshare --net --mount true && strace -o /dev/null true; then
        export PORTLEASE_NO_SKIP=${PORTLEASE_NO_SKIP:-1}
    fi
    has_python_packages || job 180 install_python_packages >"$scratch/pip" 2>&1
    if has_python_packages; then
        export PORTLEASE_TEST_PYTHON=$VENV/bin/python
    else
        tail -n 3 "$scratch/pip" >&2
        skip python-packages "could not be installed: ${PYTHON_PACKAGES[*]}"
        unset PORTLEASE_NO_SKIP
    fi
    has_node_packages || job 60 install_node_packages >"$scratch/npm-packages" 2>&1
    if has_node_packages; then
        export PORTLEASE_TEST_NODE=$NODE_FOLDER/node_modules/.bin
    else
        tail -n 3 "$scratch/npm-packages" >&2
        skip node-packages "could not be installed: ${NODE_PACKAGES[*]}"
        unset PORTLEASE_NO_SKIP
    fi
}
