#!/usr/bin/env bash
# Fuzzes one target, or each in turn, guided by coverage: scripts/fuzz.sh [target|all] [seconds for each]
#
# Needs a C++ compiler beside Rust; stable will do. Writes to target/fuzz alone: the build, a corpus for each target that grows from run to run, and what broke
# something, which stops the script. docs/fuzzing.md tells more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${1:-all}
seconds=${2:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
here=$PWD/target/fuzz

# What cargo-fuzz gives to rustc: counters at each edge, and comparisons. Named by --target, so that build scripts and macros are left alone.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags="$flags -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
RUSTFLAGS="$flags -Cdebug-assertions -Coverflow-checks" CARGO_TARGET_DIR=$here \
  cargo build --release --locked -p taskpass-fuzz --features libfuzzer --bin fuzz --target "$host"

if [ "$target" = all ]; then
  targets=$(sed -n 's/.*Target { name: "\([a-z_0-9]*\)".*/\1/p' fuzz/src/lib.rs)
else
  targets=$target
fi
for name in $targets; do
  echo "==> $name, $seconds s"
  mkdir -p "$here/corpus/$name" "$here/seeds/$name" "$here/broken/$name"
  FUZZ_TARGET=$name FUZZ_SEEDS=$here/seeds/$name "$here/$host/release/fuzz" "$here/corpus/$name" "$here/seeds/$name" \
    -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$here/broken/$name/" -print_final_stats=1 -verbosity=1
done
