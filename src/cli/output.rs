//! What a command says: documents on standard output, notes on standard error.

use std::future::Future;
use std::io::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::Failure;
use crate::task::words::unseen;

/// After this a command says what it is waiting for.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// And says it again.
const REMINDER: Duration = Duration::from_secs(5);

/// Whether the answer is for people or for programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// For programs if `json`.
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the answer is for programs.
    pub(super) const fn is_json(self) -> bool {
        self.json
    }

    /// The one answer of a command: a JSON document, or text for people.
    pub(super) fn answer(
        self,
        json: impl FnOnce() -> Value,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { say(&pretty(&json())) } else { say(&human()) }
    }

    /// A line of a sequence: one JSON object, or text for people.
    pub(super) fn line(
        self,
        json: impl FnOnce() -> Value,
        human: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.json { say(&json().to_string()) } else { say(&human()) }
    }

    /// Awaits `work`; if that takes long, says on standard error that we are waiting for `what`.
    pub(super) async fn patiently<T>(self, what: &str, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let (mut waited, mut patience) = (Duration::ZERO, PATIENCE);
        loop {
            if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
                return done;
            }
            waited += patience;
            patience = REMINDER;
            match self.json {
                true => note(json!({ "waiting_for": what, "seconds": waited.as_secs() })),
                false => note(format_args!("waiting for {what} ({} s)", waited.as_secs())),
            }
        }
    }

    /// Something to look at though the command did what it was told, on standard error.
    pub(super) fn warn(self, text: &str) {
        match self.json {
            true => note(json!({ "warning": text })),
            false => note(format_args!("warning: {text}")),
        }
    }

    /// Why a command failed, on standard error.
    pub(super) fn failure(self, failure: &Failure) {
        note(if self.json { failure.to_json().to_string() } else { failure.to_string() });
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Text on standard output, ending in one line feed. When nobody reads any more the command ends quietly.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes()));
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::nobody_reads()),
        Err(error) => Err(Failure::at("standard output", error)),
    }
}

/// A line on standard error. That nobody reads it is no reason to stop.
pub(super) fn note(text: impl std::fmt::Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Text from elsewhere, fit for a terminal: control characters are spelled out. Line feeds stay, with what follows set in.
pub(super) fn plain(text: &str) -> String {
    spelled(text, |c, out| match c {
        '\n' => out.push_str("\n  "),
        c => out.extend(c.escape_default()),
    })
}

/// The same in one line.
pub(super) fn inline(text: &str) -> String {
    spelled(text, |c, out| out.extend(c.escape_default()))
}

fn spelled(text: &str, spell: impl Fn(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_steering(c) { spell(c, &mut out) } else { out.push(c) }
    }
    out
}

/// Control characters, and those that do something unseen. Brokers take no such text; what it comes from may be older, or a file.
fn is_steering(c: char) -> bool {
    c.is_control() || unseen(c).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_keeps_its_lines_and_loses_its_power() {
        assert_eq!(plain("a\nb\u{1b}[31m\u{202e}"), "a\n  b\\u{1b}[31m\\u{202e}");
        assert_eq!(plain("\u{e0041}p\u{200b}ay"), "\\u{e0041}p\\u{200b}ay");
        assert_eq!(inline("a\nb\tc"), "a\\nb\\tc");
    }
}
