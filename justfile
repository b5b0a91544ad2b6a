# What people and continuous integration run. `just` alone lists it.

default:
    @just --list

# Everything that must pass, with its own set-up.
test:
    scripts/test.sh

# The quick round while working.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace --lib

# Licences, sources and the one crypto stack (cargo install cargo-deny --locked).
deny:
    cargo deny check bans licenses sources

# The whole story in one process, narrated.
demo:
    cargo run --release -- demo

# A broker for this laptop.
dev:
    cargo run --release -- dev
