#!/bin/sh
# Makes .venv in the checkout: the pinned, hashed requirements and an editable perdure. `make` calls it before each target;
# it answers at once when nothing changed. PYTHON=... chooses the interpreter (3.11 or newer).
set -u

cd "$(dirname "$0")/.." || exit 1
checkout=$(pwd -P)
venv=$checkout/.venv
stamp=$venv/.perdure-setup
log=$checkout/build/setup.log
requirements=requirements/dev.txt

say() { printf 'perdure: %s\n' "$*"; }

fail() {
    printf 'perdure: set-up failed: %s\n' "$*" >&2
    exit 1
}

# What the installed environment depends on: change any of it and the environment is brought up to date.
fingerprint() {
    printf '%s\n%s\n' "$checkout" "${PYTHON:-}"
    cksum "$requirements" tools/setup.sh
    # only what an editable install reads of pyproject.toml: everything before the tools' own settings
    sed '/^# ---- tools/,$d' pyproject.toml | cksum
}

up_to_date() {
    [ -f "$stamp" ] && [ "$(fingerprint)" = "$(cat "$stamp")" ] && "$venv/bin/python" -c '' 2>/dev/null
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or newer; give one that is, or leave PYTHON out"
        python=$PYTHON
        return
    fi
    for python in python3 python3.13 python3.12 python3.11 python3.14; do
        new_enough "$python" && return
    done
    fail "no Python 3.11 or newer found; install one (Debian: apt-get install python3 python3-venv) or run 'make PYTHON=/path/to/python'"
}

# Debian ships venv's installer apart, as pythonX.Y-venv.
need_venv_module() {
    can_make_venv && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        fail "$python can't make a virtual environment; run 'sudo apt-get install $package' (or your system's equivalent), then again"
    fi
    say "installing the system package $package (some ten seconds) ..."
    {
        apt_get update && apt_get install "$package"
    } >>"$log" 2>&1 || fail "apt-get could not install $package: $(last_words)"
    can_make_venv || fail "$python still can't make a virtual environment; run 'make PYTHON=/usr/bin/python3'"
}

can_make_venv() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; }

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@" </dev/null; }

make_venv() {
    if [ -z "${PYTHON:-}" ] && [ -x "$venv/bin/pip" ] && new_enough "$venv/bin/python" && made_here; then
        return # keep it: pip brings what is there up to date
    fi
    "$python" -m venv --clear "$venv" >>"$log" 2>&1 || fail "'$python -m venv .venv' said: $(last_words)"
}

# A virtual environment holds absolute paths, so one that was copied along with the checkout is of no use.
made_here() { head -1 "$venv/bin/pip" | grep -qF "#!$venv/bin/"; }

install() {
    # Without a wheel for this platform pip would compile; see docs/decisions/003-hashed-requirements.md for the one exception.
    case $(uname -sm) in
        "Linux x86_64") wheels_only="--only-binary :all:" ;;
        *) wheels_only="--prefer-binary" ;;
    esac
    # shellcheck disable=SC2086  # two words on purpose
    pip_install --require-hashes $wheels_only -r "$requirements" ||
        fail "pip could not install $requirements (is a package index reachable?): $(last_words)"
    pip_install --no-deps --no-build-isolation --editable . ||
        fail "pip could not install perdure itself: $(last_words)"
}

pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet "$@" >>"$log" 2>&1 </dev/null
}

last_words() { printf '%s (all of it: build/setup.log)' "$(grep -v '^[[:space:]]*$' "$log" | tail -n 1)"; }

set_up() {
    : >"$log"
    find_python
    need_venv_module
    say "setting up .venv with $("$python" --version) (the first time takes one to two minutes; log: build/setup.log) ..."
    rm -f "$stamp"
    make_venv
    install
    fingerprint >"$stamp"
    say "set up."
}

up_to_date && exit 0
mkdir -p "$checkout/build" || fail "can't write to $checkout/build"
# Two makes started at once must not install over one another.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$checkout/build/setup.lock"
    flock 9
    up_to_date && exit 0
fi
set_up
