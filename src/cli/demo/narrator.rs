//! Tells the steps as they happen, with the time that each took.

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output::{Output, plain};

/// Columns of the text beside the times.
const WIDTH: usize = 92;
/// Columns of the times.
const MARGIN: usize = 12;

/// See the module's text.
pub(super) struct Narrator {
    out: Output,
    began: Instant,
    steps: u32,
}

/// What a step gives, and what there is to say about it.
pub(super) type Told<T> = Result<(T, String), Failure>;

impl Narrator {
    /// How it is told.
    pub(super) const fn out(&self) -> Output {
        self.out
    }

    /// Begins.
    pub(super) fn begin(out: Output) -> Result<Self, Failure> {
        let narrator = Self { out, began: Instant::now(), steps: 0 };
        narrator.prose(
            "Taskpass: one task, from its beginning to its end.\n\
             Real sockets, mutual TLS, a store on disk. All of it on this machine, and thrown away at the end.",
        )?;
        Ok(narrator)
    }

    /// A heading, for people.
    pub(super) fn act(&self, title: &str) -> Result<(), Failure> {
        self.prose(&format!("\n{title}"))
    }

    fn prose(&self, text: &str) -> Result<(), Failure> {
        if self.out.is_json() { Ok(()) } else { crate::cli::output::say(text) }
    }

    /// Takes a step and tells it. `name` is for programs.
    pub(super) async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Told<T>>,
    ) -> Result<T, Failure> {
        self.steps += 1;
        let began = Instant::now();
        let told = work.await;
        let took = began.elapsed();
        let (text, failure) = match &told {
            Ok((_, text)) => (text.clone(), None),
            Err(failure) => {
                (format!("{name} did not do what it should.\n{failure}"), Some(failure.to_json()))
            }
        };
        let ms = millis(took);
        let document = || {
            let error = failure.as_ref().map(|failure| &failure["error"]);
            let mut object =
                json!({ "step": self.steps, "name": name, "ok": error.is_none(), "ms": ms, "text": text });
            if let (Some(error), Some(fields)) = (error, object.as_object_mut()) {
                fields.insert("error".to_owned(), error.clone());
            }
            object
        };
        self.out.line(document, || paragraph(took, &text))?;
        told.map(|(value, _)| value)
    }

    /// Ends, with the sum of it.
    pub(super) fn end(&self, ok: bool) -> Result<(), Failure> {
        let (took, steps) = (self.began.elapsed(), self.steps);
        let document = || json!({ "name": "total", "ok": ok, "ms": millis(took), "steps": steps });
        let text = || match ok {
            true => format!("\n{steps} steps, and each did what it should. {} ms in all.", took.as_millis()),
            false => format!("\nThe last of {steps} steps did not do what it should."),
        };
        self.out.line(document, text)
    }
}

/// To the microsecond.
fn millis(took: Duration) -> f64 {
    f64::from(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)) / 1_000.0
}

/// The time, then the text beside it. Lines are broken between words.
fn paragraph(took: Duration, text: &str) -> String {
    let mut out = format!("{:>6.1} ms   ", millis(took));
    for (i, line) in plain(text).lines().flat_map(|line| broken(line.trim())).enumerate() {
        if i > 0 {
            out.push_str(&" ".repeat(MARGIN));
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

fn broken(line: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split(' ') {
        let Some(last) = lines.last_mut() else { continue };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= WIDTH {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_beside_its_time() {
        let text = format!("{}\nand {}", "word ".repeat(30), "x".repeat(200));
        let told = paragraph(Duration::from_micros(1_234), &text);
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("   1.2 ms   word"), "{told}");
        assert!(lines[1..].iter().all(|line| line.starts_with("            ")), "{told}");
        assert_eq!(lines.len(), 4);
    }

    #[tokio::test]
    async fn a_step_that_fails_ends_the_story() {
        let mut narrator = Narrator { out: Output::new(true), began: Instant::now(), steps: 0 };
        let failure =
            narrator.step("x", async { Err::<((), String), _>(Failure::failed("no")) }).await.unwrap_err();
        assert_eq!(failure.exit(), crate::cli::failure::Exit::Failed);
    }
}
