#!/usr/bin/env bash
# Every check of this repository, with its own set-up: scripts/test.sh
#
# Needs Rust and a C compiler. What else is missing is installed where that can be done without asking (redis-server, openssl and
# softhsm2 by apt-get, as root or by `sudo -n`), else a line says what to do. Writes to target/ alone. The last line tells the result.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
# A whole run rebuilds nothing: what incremental builds keep for the next one is 13 GB, three quarters of target/.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"

total=7
number=0
current="start"
step_began=$SECONDS
skipped=()

say() { printf '%s\n' "$*"; }

step() { # name: closes the step before and opens the next one
  finish_step
  number=$((number + 1))
  current=$1
  step_began=$SECONDS
  say ""
  say "==> [$number/$total] $current"
}

finish_step() {
  [ "$number" -eq 0 ] || say "    ok: $current ($((SECONDS - step_began)) s)"
}

skip() { # what and why
  skipped+=("$1")
  say "    skipped: $1"
}

give_up() {
  say "    $*"
  exit 1
}

report() {
  local code=$?
  say ""
  if [ "$code" -eq 0 ]; then
    for what in ${skipped[@]+"${skipped[@]}"}; do say "Skipped: $what"; done
    say "PASSED: $total steps in $((SECONDS / 60)) min $((SECONDS % 60)) s"
  else
    say "FAILED in step $number of $total ($current) after $((SECONDS / 60)) min $((SECONDS % 60)) s; what went wrong is above"
  fi
}
trap report EXIT

has() { command -v "$1" >/dev/null 2>&1; }

# A component of the Rust installation; added if rustup is there. The toolchain that cargo runs here is the one that counts.
has_component() { # cargo subcommand, component
  cargo "$1" --version >/dev/null 2>&1 && return 0
  has rustup && rustup component add "$2" >/dev/null 2>&1 && cargo "$1" --version >/dev/null 2>&1
}

as_root() { # runs a command as root without asking; fails if that cannot be done
  if [ "$(id -u)" -eq 0 ]; then "$@"; elif has sudo && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

redis_major() { redis-server --version 2>/dev/null | sed -n 's/.* v=\([0-9]*\)\..*/\1/p'; }

install_package() { # name
  has apt-get || return 1
  say "    $1 is missing: installing it by apt-get"
  as_root env DEBIAN_FRONTEND=noninteractive sh -c \
    "apt-get update -qq && apt-get install -y -qq --no-install-recommends $1" >/dev/null
}

# Older ones, such as the 0.14 that pip installs, cannot read what today's cargo says.
deny_is_current() {
  local version
  version=$(cargo deny --version 2>/dev/null | sed -n 's/^cargo-deny \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  # shellcheck disable=SC2086 # two words
  [ -n "$version" ] && set -- $version && { [ "$1" -gt 0 ] || [ "$2" -ge 18 ]; }
}

step "tools"
has cargo || give_up "cargo is missing: install Rust from https://rustup.rs"
cargo metadata --format-version 1 --no-deps >/dev/null || give_up "this cargo cannot read the project: rustup update stable"
has cc || has gcc || has clang || give_up "a C compiler is missing: install gcc or clang"
say "    $(cargo --version)"
has redis-server || install_package redis-server || true
has redis-server || give_up "redis-server is missing: apt-get install redis-server, dnf install redis, or brew install redis"
[ "$(redis_major)" -ge 7 ] || give_up "redis-server 7.0 or later is needed (https://redis.io/docs/latest/operate/oss_and_stack/install/); this is $(redis-server --version)"
say "    $(redis-server --version | cut -d' ' -f1-3)"
has openssl || install_package openssl || true
has openssl || give_up "openssl is missing, by which certificates are judged: apt-get install openssl, dnf install openssl, or brew install openssl"
say "    $(openssl version)"
has softhsm2-util || install_package softhsm2 || true
has softhsm2-util || give_up "softhsm2 is missing, by which keys in hardware are tried: apt-get install softhsm2, dnf install softhsm, or brew install softhsm"
say "    softhsm2 $(softhsm2-util --version)"

step "format"
if has_component fmt rustfmt; then
  cargo fmt --all --check
else
  skip "format: rustfmt is not installed (rustup component add rustfmt)"
fi

step "lints"
if has_component clippy clippy; then
  cargo clippy --workspace --all-targets --features taskpass/pkcs11 --locked -- -D warnings
  # And what everybody gets, which has nothing of PKCS#11 in it.
  cargo clippy --locked -- -D warnings
else
  skip "lints: clippy is not installed (rustup component add clippy)"
  cargo check --locked
fi

step "tests"
# Once, with everything: the tests of what everybody gets are among them.
cargo test --workspace --features taskpass/pkcs11 --locked

PATH="$PWD/target/tools/bin:$PATH"
step "tests with SPIRE"
if has spire-server && has spire-agent; then
  say "    SPIRE $(spire-server --version 2>&1)"
  cargo test --features taskpass/pkcs11 --locked --test it -- --ignored spire::
else
  skip "spire-server and spire-agent are not installed; the other tests speak to a Workload API and to bundle endpoints of their own. To have them, once, in some minutes, with Go: scripts/spire.sh"
fi

step "dependencies"
if deny_is_current; then
  say "    $(cargo deny --version)"
  cargo deny check bans licenses sources
else
  skip "cargo deny 0.18 or later is not installed; tests/architecture has held Cargo.lock to deny.toml instead. To have both, once, in some ten minutes: cargo install cargo-deny --locked --root target/tools"
fi

step "first steps"
mkdir -p target
if ! has python3; then
  skip "examples/agent.py: python3 is not installed"
  scripts/test-first-steps.sh
elif ! scripts/python-env.sh >target/python-env.log 2>&1; then
  skip "examples/agent.py: no environment with grpcio could be made: $(tail -n 1 target/python-env.log)"
  scripts/test-first-steps.sh
else
  scripts/test-first-steps.sh --with-agent
fi

finish_step
