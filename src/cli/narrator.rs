//! Tells the steps of a story as they happen, with the time that each took; or, from a moment zero on, the time at which each was over.

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;

use super::failure::Failure;
use super::output::{Output, plain, say};

/// Columns of the text beside the times.
const WIDTH: usize = 92;
/// Columns of the times.
const MARGIN: usize = 12;

/// See the module's text.
pub(super) struct Narrator {
    out: Output,
    began: Instant,
    zero: Option<Instant>,
    steps: u32,
}

/// What a step gives, and what there is to say about it.
pub(super) type Told<T> = Result<(T, String), Failure>;

impl Narrator {
    /// How it is told.
    pub(super) const fn out(&self) -> Output {
        self.out
    }

    /// Begins, with what people are told first.
    pub(super) fn begin(out: Output, prose: &str) -> Result<Self, Failure> {
        let narrator = Self { out, began: Instant::now(), zero: None, steps: 0 };
        narrator.prose(prose)?;
        Ok(narrator)
    }

    /// A heading, for people. Times are those that each step took, from here on.
    pub(super) fn act(&mut self, title: &str) -> Result<(), Failure> {
        self.zero = None;
        self.prose(&format!("\n{title}"))
    }

    /// This is the moment zero of what follows, until the next act.
    pub(super) fn zero(&mut self) {
        self.zero = Some(Instant::now());
    }

    fn prose(&self, text: &str) -> Result<(), Failure> {
        if self.out.is_json() { Ok(()) } else { say(text) }
    }

    /// Takes a step and tells it. `name` is for programs.
    pub(super) async fn step<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = Told<T>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let told = work.await;
        self.tell(name, began, Instant::now(), told)
    }

    /// Tells a step that was taken from one moment to another.
    pub(super) fn tell<T>(
        &mut self,
        name: &str,
        began: Instant,
        over: Instant,
        told: Told<T>,
    ) -> Result<T, Failure> {
        self.steps += 1;
        let (text, failure) = match &told {
            Ok((_, text)) => (text.clone(), None),
            Err(failure) => {
                (format!("{name} did not do what it should.\n{failure}"), Some(failure.to_json()))
            }
        };
        let (ms, since_zero) = (millis(over.duration_since(began)), self.since_zero(over));
        let document = || {
            let error = failure.as_ref().map(|failure| &failure["error"]);
            let mut object =
                json!({ "step": self.steps, "name": name, "ok": error.is_none(), "ms": ms, "text": text });
            if let Some(fields) = object.as_object_mut() {
                fields.extend(since_zero.map(|t| ("t_ms".to_owned(), json!(millis(t)))));
                fields.extend(error.map(|error| ("error".to_owned(), error.clone())));
            }
            object
        };
        let margin = || match since_zero {
            Some(t) => format!("t+{:>6.1} ms ", millis(t)),
            None => format!("{ms:>6.1} ms   "),
        };
        self.out.line(document, || paragraph(&margin(), &text))?;
        told.map(|(value, _)| value)
    }

    fn since_zero(&self, at: Instant) -> Option<Duration> {
        self.zero.map(|zero| at.saturating_duration_since(zero))
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
fn paragraph(margin: &str, text: &str) -> String {
    let mut out = margin.to_owned();
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
        let told = paragraph("   1.2 ms   ", &text);
        let lines: Vec<_> = told.lines().collect();
        assert!(lines[0].starts_with("   1.2 ms   word"), "{told}");
        assert!(lines[1..].iter().all(|line| line.starts_with("            ")), "{told}");
        assert_eq!(lines.len(), 4);
    }

    #[tokio::test]
    async fn a_step_that_fails_ends_the_story() {
        let mut narrator = Narrator::begin(Output::new(true), "").unwrap();
        let failure =
            narrator.step("x", async { Err::<((), String), _>(Failure::failed("no")) }).await.unwrap_err();
        assert_eq!(failure.exit(), crate::cli::failure::Exit::Failed);
    }
}
