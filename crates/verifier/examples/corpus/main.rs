//! Writes the corpus of tokens and verdicts into `tests/corpus`: `cargo run -p taskpass-verifier --example corpus`.
//!
//! Signatures of ES256 are random: those that are there already and still fit are kept, so that nothing changes without a reason.

use std::path::Path;

mod make;

fn main() -> std::io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let (keys, cases) = (dir.join("keys.json"), dir.join("cases.json"));
    let before = std::fs::read_to_string(&cases).unwrap_or_default();
    let made = make::corpus(&before);
    std::fs::write(keys, made.keys)?;
    std::fs::write(cases, made.cases)
}
