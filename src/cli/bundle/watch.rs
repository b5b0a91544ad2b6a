//! `taskpass bundle watch`: a line for each change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

use super::source::{Read, Source};
use super::{FILE_MODE, Format, holds};
use crate::cli::failure::{Exit, Failure, Outcome};
use crate::cli::host::Signals;
use crate::cli::output::{Output, inline};
use crate::cli::{input, render};
use crate::identity::{CertificateFacts, Published};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// How often a bundle is asked for that gives no hint (C71).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// The longest that a hint counts.
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Something to tell.
#[derive(Debug, PartialEq)]
struct Event {
    kind: &'static str,
    text: String,
    facts: Value,
}

impl Event {
    fn new(kind: &'static str, text: impl Into<String>, facts: Value) -> Self {
        Self { kind, text: text.into(), facts }
    }
}

/// What is known of a bundle.
struct Known {
    published: Option<Published>,
    trouble: Option<String>,
    failures: u32,
}

/// Asks until somebody says stop. A source that is away, or gives what cannot be right, is asked again; what was there before stays.
pub(super) async fn run(
    mut source: Source,
    (file, format): (Option<PathBuf>, Format),
    every: Option<Duration>,
    out: Output,
) -> Outcome {
    let mut signals = Signals::listen()?;
    let mut known = Known { published: None, trouble: None, failures: 0 };
    loop {
        let read = tokio::select! {
            () = signals.next() => return Ok(Exit::Done),
            read = source.read(out) => read,
        };
        let events = match read.and_then(|read| known.take(read, source.is_broker(), file.as_deref(), format))
        {
            // Nothing was ever heard, and what is wrong will not go by itself.
            Err(failure) if known.published.is_none() && failure.exit() != Exit::Unavailable => {
                return Err(failure);
            }
            Err(failure) => known.trouble(&failure),
            Ok(events) => events,
        };
        let now = SystemClock.now();
        events.iter().try_for_each(|event| print(event, now, out))?;
        tokio::select! {
            () = signals.next() => return Ok(Exit::Done),
            () = tokio::time::sleep(known.pause(every)) => {}
        }
    }
}

impl Known {
    /// What is new in it. An error: it is not taken.
    fn take(
        &mut self,
        read: Read,
        ordered: bool,
        file: Option<&Path>,
        format: Format,
    ) -> Result<Vec<Event>, Failure> {
        if let (true, Some(held)) = (ordered, &self.published) {
            read.published.follows(held).map_err(Failure::failed)?;
        }
        let written = file.map(|file| keep(file, &read.text(format)?)).transpose()?;
        let mut events = Vec::new();
        if self.trouble.take().is_some() {
            events.push(Event::new("well", "the source is well again", json!({})));
        }
        events.extend(changes(self.published.as_ref(), &read.published));
        if let (Some(true), Some(file)) = (written, file) {
            let name = file.display().to_string();
            events.push(Event::new("written", inline(&name), json!({ "file": name })));
        }
        self.published = Some(read.published);
        self.failures = 0;
        Ok(events)
    }

    /// The same trouble is told once.
    fn trouble(&mut self, failure: &Failure) -> Vec<Event> {
        self.failures = self.failures.saturating_add(1);
        let why = failure.message().to_owned();
        if self.trouble.as_ref() == Some(&why) {
            return Vec::new();
        }
        self.trouble = Some(why.clone());
        let text = format!("{}; what was heard before stays", inline(&why));
        vec![Event::new("trouble", text, json!({ "why": why }))]
    }

    /// After a failure sooner, with growing pauses.
    fn pause(&self, every: Option<Duration>) -> Duration {
        let hint = self.published.as_ref().and_then(|it| it.refresh_hint);
        let hinted = hint.map_or(DEFAULT_INTERVAL, Duration::from_secs);
        let interval = every.unwrap_or_else(|| hinted.clamp(MIN_INTERVAL, MAX_INTERVAL));
        match self.failures {
            0 => interval,
            n => MIN_INTERVAL.saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(interval),
        }
    }
}

/// Writes what is not there already. Whether that was something.
fn keep(file: &Path, text: &str) -> Result<bool, Failure> {
    if holds(file, text) {
        return Ok(false);
    }
    input::replace(file, text, FILE_MODE).map(|()| true)
}

/// From one bundle to the next; from nothing to the first.
fn changes(old: Option<&Published>, new: &Published) -> Vec<Event> {
    let (before, after) = (old.map(authorities).unwrap_or_default(), authorities(new));
    let mut events = Vec::new();
    match old {
        None => {
            let many = after.len();
            let sequence = new.sequence.map_or("no sequence".to_owned(), |it| format!("sequence {it}"));
            let facts =
                json!({ "sequence": new.sequence, "refresh_hint": new.refresh_hint, "authorities": many });
            events.push(Event::new("bundle", format!("{sequence}, authorities: {many}"), facts));
        }
        Some(old) if old.sequence != new.sequence => {
            let word = |it: Option<u64>| it.map_or("none".to_owned(), |it| it.to_string());
            let text = format!("{} to {}", word(old.sequence), word(new.sequence));
            events.push(Event::new("sequence", text, json!({ "from": old.sequence, "to": new.sequence })));
        }
        Some(_) => {}
    }
    let added = if old.is_none() { "present" } else { "added" };
    let of =
        |kind: &'static str, (text, facts): &(String, Value)| Event::new(kind, text.clone(), facts.clone());
    events.extend(after.iter().filter(|(key, _)| !before.contains_key(*key)).map(|(_, it)| of(added, it)));
    events
        .extend(before.iter().filter(|(key, _)| !after.contains_key(*key)).map(|(_, it)| of("removed", it)));
    if old.is_some() && after.is_empty() && !before.is_empty() {
        events.push(Event::new(
            "empty",
            "no authority is left: nothing of this trust domain is good",
            json!({}),
        ));
    }
    events
}

/// By what tells them apart: text and facts of each.
fn authorities(of: &Published) -> BTreeMap<Vec<u8>, (String, Value)> {
    let mut all = BTreeMap::new();
    for der in of.bundle.certificates() {
        all.insert(der.to_vec(), certificate(der));
    }
    for it in &of.others {
        let kid = it.kid.as_deref().unwrap_or("-");
        let text = format!("{} {}", inline(&it.usage), inline(kid));
        all.insert(format!("{} {kid}", it.usage).into_bytes(), (text, render::other_key(it)));
    }
    all
}

fn certificate(der: &CertificateDer<'_>) -> (String, Value) {
    let Some(facts) = CertificateFacts::of(der) else {
        return ("x509-svid".to_owned(), json!({ "use": "x509-svid" }));
    };
    let text = format!(
        "x509-svid {} {}, until {}",
        render::authority_name(&facts),
        inline(&facts.subject),
        facts.not_after
    );
    (text, render::authority(&facts, None))
}

fn print(event: &Event, at: Timestamp, out: Output) -> Result<(), Failure> {
    let document = || {
        let mut document = json!({ "at": at.to_string(), "event": event.kind });
        if let (Some(document), Some(facts)) = (document.as_object_mut(), event.facts.as_object()) {
            document.extend(facts.clone());
        }
        document
    };
    out.line(document, || format!("{at}  {:<9} {}", event.kind, event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(hint: Option<u64>, failures: u32) -> Known {
        let bundle = crate::identity::TrustBundle::from_certificates("td.test".parse().unwrap(), []).unwrap();
        let published = Published { bundle, sequence: None, refresh_hint: hint, others: Vec::new() };
        Known { published: Some(published), trouble: None, failures }
    }

    #[test]
    fn c71_a_bundle_is_asked_for_as_often_as_it_hints_within_bounds() {
        let secs = |of: &Known, every: Option<u64>| of.pause(every.map(Duration::from_secs)).as_secs();
        assert_eq!(secs(&known(None, 0), None), 300);
        assert_eq!(secs(&known(Some(0), 0), None), 1);
        assert_eq!(secs(&known(Some(60), 0), None), 60);
        assert_eq!(secs(&known(Some(u64::MAX), 0), None), 3600);
        assert_eq!(secs(&known(Some(60), 0), Some(7)), 7);
        let pauses: Vec<_> = (1..=10).map(|failures| secs(&known(Some(60), failures), None)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(secs(&known(None, u32::MAX), Some(5)), 5);
    }

    #[test]
    fn the_same_trouble_is_told_once() {
        let mut known = known(None, 0);
        assert_eq!(known.trouble(&Failure::unavailable("away")).len(), 1);
        assert_eq!(known.trouble(&Failure::unavailable("away")).len(), 0);
        assert_eq!(known.trouble(&Failure::unavailable("away, too")).len(), 1);
    }
}
