#!/bin/sh
# Builds .venv with exactly what requirements.lock says and the six members in editable form.
# Needs a Python 3.11 - 3.13; as root on a Debian-family machine it installs what Python lacks.
# Does nothing, quickly, when .venv is already current.
set -eu
cd "$(dirname "$0")/../.."

UV_VERSION=0.13.8
MEMBERS="libs/common libs/simulator services/gateway services/agent-worker services/persister services/billing"
stamp=.venv/.laneway-stamp

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
say() { printf 'setup: %s\n' "$*"; }

# pyvenv.cfg carries the Python version, so a changed interpreter changes the fingerprint without being run.
fingerprint() {
    manifests=
    for member in $MEMBERS; do manifests="$manifests $member/pyproject.toml"; done
    # shellcheck disable=SC2086
    cat requirements.lock $manifests deploy/local/setup.sh .venv/pyvenv.cfg 2>/dev/null | cksum
}

current() { [ -x .venv/bin/python ] && [ -f "$stamp" ] && [ "$(fingerprint)" = "$(cat "$stamp")" ]; }

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

pick_python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if suits "$candidate"; then echo "$candidate"; return; fi
    done
    return 1
}

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "installing $* with apt"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# The machine's own pip is preferred: it knows the machine's index, proxy and certificates.
install_uv() {
    rm -rf .laneway/uv
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore \
            --target .laneway/uv "uv==$UV_VERSION"
    else
        "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv ||
            fail "$python has neither pip nor venv: install python3-venv (or python3-pip) and run this again"
        "$python" -m venv .laneway/uv
        .laneway/uv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
}

current && exit 0
mkdir -p .laneway
if command -v flock >/dev/null 2>&1; then
    exec 9>.laneway/setup.lock
    flock 9
    current && exit 0
fi

python=$(pick_python) || { apt_install python3 python3-venv && python=$(pick_python); } ||
    fail "no Python between 3.11 and 3.13 was found: install one and run this again"

case "$(.laneway/uv/bin/uv --version 2>/dev/null)" in
    "uv $UV_VERSION"*) ;;
    *) say "installing uv $UV_VERSION"; install_uv ;;
esac

uv=.laneway/uv/bin/uv
export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"  # the machine's own certificate authorities count too
rm -f "$stamp"
if suits .venv/bin/python; then
    say "bringing .venv up to date"  # in place: what runs from it meanwhile goes on
else
    say "building .venv with $("$python" -V)"
    "$uv" venv --quiet --clear --no-project --python "$(command -v "$python")" .venv
fi
"$uv" pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
editable=
for member in $MEMBERS; do editable="$editable -e $member"; done
# shellcheck disable=SC2086
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation $editable
fingerprint >"$stamp"
