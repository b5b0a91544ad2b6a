//! What is gathered on the way of an operation for its audit line, and the one place that writes it.

use crate::audit::{Event, Outcome};
use crate::error::{Error, Result};
use crate::failpoint::{Place, reach};
use crate::time::Timestamp;

use super::{Broker, Caller};

/// The longest object, in bytes: that of a SPIFFE ID.
const MAX_OBJECT: usize = 2048;
/// The longest detail of a refusal.
const MAX_DETAIL: usize = 1024;
/// The longest fact, and the longest `why`.
const MAX_FACT: usize = 512;

/// Grows while an operation goes on; becomes one audit line. Callers choose some of the texts in it, also those who are permitted nothing: so each is cut to a length, and
/// no line is longer than a few kilobytes.
#[derive(Clone, Debug)]
pub(super) struct Trail {
    action: &'static str,
    object: String,
    why: Vec<String>,
    facts: Vec<(&'static str, String)>,
}

impl Trail {
    pub(super) fn new(action: &'static str, object: impl ToString) -> Self {
        Self { action, object: cut(object, MAX_OBJECT), why: Vec::new(), facts: Vec::new() }
    }

    /// What it turned out to be about.
    pub(super) fn object(&mut self, object: impl ToString) {
        self.object = cut(object, MAX_OBJECT);
    }

    /// A policy, or a reason.
    pub(super) fn why(&mut self, why: impl ToString) {
        let why = cut(why, MAX_FACT);
        if !self.why.contains(&why) {
            self.why.push(why);
        }
    }

    /// Something worth knowing later. Never a secret.
    pub(super) fn fact(&mut self, name: &'static str, value: impl ToString) {
        self.facts.push((name, cut(value, MAX_FACT)));
    }

    /// The line.
    pub(super) fn event(self, caller: Option<&Caller>, outcome: Outcome, now: Timestamp) -> Event {
        Event {
            at: now,
            request: caller.map(|c| c.request),
            who: caller.map(|c| c.spiffe_id().to_string()).unwrap_or_default(),
            action: self.action,
            object: self.object,
            why: self.why,
            outcome,
            facts: self.facts,
        }
    }
}

impl Broker {
    /// Writes that an effect is about to be, with what the trail holds so far. Before the effect, of which there is none if this fails; [`Broker::finish`] or
    /// [`Broker::write_audit`] then says what came of it.
    pub(super) async fn intend(&self, caller: Option<&Caller>, trail: &Trail, now: Timestamp) -> Result<()> {
        self.write_audit(caller, trail.clone(), Outcome::Intended, now).await
    }

    /// Writes the line. If that fails the operation fails, whatever it did: no effect without its record.
    pub(super) async fn finish<T>(
        &self,
        caller: &Caller,
        trail: Trail,
        result: Result<T>,
        now: Timestamp,
    ) -> Result<T> {
        self.write_audit(Some(caller), trail, outcome(&result), now).await?;
        reach(Place::Audited);
        result
    }

    /// The same, for what the broker does by itself.
    pub(super) async fn conclude<T>(&self, trail: Trail, result: Result<T>, now: Timestamp) -> Result<T> {
        self.write_audit(None, trail, outcome(&result), now).await?;
        result
    }

    /// A line for what the broker does by itself, or for a refusal that is no error.
    pub(super) async fn write_audit(
        &self,
        caller: Option<&Caller>,
        trail: Trail,
        outcome: Outcome,
        now: Timestamp,
    ) -> std::result::Result<(), Error> {
        self.audit.write(trail.event(caller, outcome, now)).await
    }
}

/// What the line says of a result.
pub(super) fn outcome<T>(result: &Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(error) => {
            Outcome::Refused { reason: error.reason().as_str(), detail: cut(error.log_line(), MAX_DETAIL) }
        }
    }
}

/// The text; of a longer one its beginning, and how long it was.
fn cut(text: impl ToString, most: usize) -> String {
    let mut text = text.to_string();
    let whole = text.len();
    if whole > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str(&format!("... ({whole} bytes)"));
    }
    text
}
