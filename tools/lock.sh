#!/bin/sh
# Resolves the requirements for every supported platform and Python at once, with hashes and without naming an index.
# LOCK_ARGS is handed on to the resolver: LOCK_ARGS=--upgrade, or LOCK_ARGS="--upgrade-package httpx".
set -eu
cd "$(dirname "$0")/.."

tool=build/lock-venv
[ -x $tool/bin/uv ] || {
    .venv/bin/python -m venv $tool
    $tool/bin/python -m pip --disable-pip-version-check --no-input install --quiet uv 2>build/lock.log ||
        { echo "perdure: pip could not install uv: $(tail -n 1 build/lock.log)" >&2; exit 1; }
}

compile() { # compile OUTPUT SOURCE...
    output=$1
    shift
    # shellcheck disable=SC2086  # LOCK_ARGS is a list
    $tool/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra all \
        --no-emit-index-url --no-emit-find-links --no-annotate --no-header ${LOCK_ARGS:-} --output-file "$output" "$@"
}

compile requirements/runtime.txt pyproject.toml
compile requirements/dev.txt pyproject.toml requirements/dev.in
if grep -n '://' requirements/*.txt; then
    echo "perdure: a requirements file names a host; see the lines above" >&2
    exit 1
fi
