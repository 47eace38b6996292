#!/bin/sh
# Puts omewd into the virtual environment .venv of this clone, with whatever Python there is from 3.11 on.
#
#   sh packaging/venv.sh        omewd as it is now
#   sh packaging/venv.sh dev    editable, with all that tests and documentation need
#
# Another Python: PYTHON=/opt/python3.13/bin/python3 sh packaging/venv.sh
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "omewd: $*" >&2
    exit 1
}

find_python() {
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

# Debian packages, with apt-get; false if that is not possible here.
install() {
    command -v apt-get >/dev/null || return 1
    as_root=
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        as_root=sudo
    fi
    echo "omewd: installing $* with apt-get" >&2
    apt_get="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq"
    $apt_get install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { $apt_get update && $apt_get install -y --no-install-recommends "$@" >/dev/null; }
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "x86-64 Linux is needed; this is $(uname -sm)"

python=$(find_python)
if [ -z "$python" ]; then
    found=$(${PYTHON:-python3} --version 2>/dev/null) || found="no ${PYTHON:-python3}"
    [ -z "${PYTHON:-}" ] && install python3 python3-venv && python=$(find_python)
    [ -n "$python" ] || fail "Python 3.11 or later is needed; here is $found." \
        "Debian 12, Ubuntu 24.04 and later: sudo apt-get install python3 python3-venv." \
        "Elsewhere, uv brings a Python of its own: uv tool install ."
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$(basename "$python")-venv
    install "$package" || fail "$python has no module venv or ensurepip. On Debian and Ubuntu: sudo apt-get install $package"
fi

echo "omewd: setting up .venv with $("$python" --version), which takes about a minute" >&2
"$python" -m venv .venv
# An older release with a wheel rather than a newer one that needs a compiler.
if [ "${1:-}" = "dev" ]; then
    .venv/bin/pip install -q --disable-pip-version-check --prefer-binary -e '.[dev]'
else
    .venv/bin/pip install -q --disable-pip-version-check --prefer-binary .
fi
