//! One TOML file to one [`Audience`]; every problem in it named with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use taskpass_verifier::claims::ToolName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Audience, DEFAULT_BOUND, Label, MAX_BOUND, MIN_BOUND, Tool};
use crate::files::{ContentDigest, Problems, TextFile};

/// Most tools of an audience.
pub(super) const MAX_TOOLS: usize = 256;
/// Most labels of a tool.
pub(super) const MAX_LABELS: usize = 16;
/// Most patterns for verifiers.
pub(super) const MAX_VERIFIERS: usize = 64;
/// Longest description, in bytes.
pub(super) const MAX_DESCRIPTION_BYTES: usize = 512;

type Key<'t> = &'t str;
type Value<'t> = Spanned<DeValue<'t>>;

/// Reads one declaration; adds to `problems` and returns `None` if anything in it is wrong.
pub(super) fn read(file: &TextFile, problems: &mut Problems) -> Option<Audience> {
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    let before = problems.0.len();
    let mut reader = Reader { file, problems };
    for error in &errors {
        reader.problem(error.span(), error.message());
    }
    if !errors.is_empty() {
        return None;
    }
    let audience = reader.audience(table.get_ref());
    audience.filter(|_| problems.0.len() == before)
}

struct Reader<'a> {
    file: &'a TextFile,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn problem(&mut self, span: Option<Range<usize>>, what: impl fmt::Display) {
        let line = span.map(|span| self.file.line_at(span.start));
        self.problems.add(&self.file.path, line, what);
    }

    fn audience(&mut self, table: &DeTable<'_>) -> Option<Audience> {
        let (mut uri, mut trust_domain, mut profile, mut tools) = (None, None, None, None);
        let (mut description, mut verifiers, mut bound) = (String::new(), Vec::new(), DEFAULT_BOUND);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                it @ "uri" => uri = Some(self.parsed(it, value)),
                it @ "trust_domain" => trust_domain = Some(self.parsed(it, value)),
                it @ "profile" => profile = Some(self.parsed(it, value)),
                it @ "tools" => tools = Some(self.tools(it, value)),
                it @ "description" => description = self.description(it, value),
                it @ "verifiers" => verifiers = self.list(it, value, MAX_VERIFIERS),
                it @ "bound" => bound = self.bound(it, value),
                other => self.problem(Some(key.span()), format!("unknown key {other:?}")),
            }
        }
        let uri = self.required("uri", uri);
        let trust_domain = self.required("trust_domain", trust_domain);
        let profile = self.required("profile", profile);
        let tools = self.required("tools", tools);
        let (uri, trust_domain, profile, tools) = (uri??, trust_domain??, profile??, tools?);
        let labels = tools.values().flat_map(|tool: &Tool| tool.labels.iter().cloned()).collect();
        let declared = ContentDigest::of_files([self.file]);
        Some(Audience { uri, trust_domain, description, profile, verifiers, bound, tools, labels, declared })
    }

    fn required<T>(&mut self, key: Key<'_>, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.problem(None, format!("{key} is missing"));
        }
        value
    }

    fn text<'v>(&mut self, key: Key<'_>, value: &'v Value<'_>) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            other => {
                self.problem(Some(value.span()), format!("{key} must be a string, not {}", kind(other)));
                None
            }
        }
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: Key<'_>, value: &Value<'_>) -> Option<T> {
        let text = self.text(key, value)?;
        match text.parse() {
            Ok(it) => Some(it),
            Err(why) => {
                self.problem(Some(value.span()), format!("{key}: {text:?} {why}"));
                None
            }
        }
    }

    fn array<'v, 't>(
        &mut self,
        key: Key<'_>,
        value: &'v Value<'t>,
        most: usize,
    ) -> Option<impl Iterator<Item = &'v Value<'t>> + use<'v, 't>> {
        match value.get_ref() {
            DeValue::Array(items) if items.len() <= most => return Some(items.iter()),
            DeValue::Array(items) => {
                self.problem(Some(value.span()), format!("{key}: {} items; at most {most}", items.len()));
            }
            other => {
                self.problem(Some(value.span()), format!("{key} must be an array, not {}", kind(other)));
            }
        }
        None
    }

    fn list<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: Key<'_>,
        value: &Value<'_>,
        most: usize,
    ) -> Vec<T> {
        let items = self.array(key, value, most);
        items.into_iter().flatten().filter_map(|item| self.parsed(key, item)).collect()
    }

    fn description(&mut self, key: Key<'_>, value: &Value<'_>) -> String {
        let text = self.text(key, value).unwrap_or_default();
        if text.len() > MAX_DESCRIPTION_BYTES || text.chars().any(char::is_control) {
            let what = format!("{key}: at most {MAX_DESCRIPTION_BYTES} bytes, without control characters");
            self.problem(Some(value.span()), what);
        }
        text.to_owned()
    }

    fn bound(&mut self, key: Key<'_>, value: &Value<'_>) -> Duration {
        let Some(text) = self.text(key, value) else { return DEFAULT_BOUND };
        match humantime::parse_duration(text) {
            Ok(bound) if (MIN_BOUND..=MAX_BOUND).contains(&bound) => bound,
            _ => {
                let what = format!("{key}: {text:?} is not a duration from 1s to 5m");
                self.problem(Some(value.span()), what);
                DEFAULT_BOUND
            }
        }
    }

    fn tools(&mut self, key: Key<'_>, value: &Value<'_>) -> BTreeMap<ToolName, Tool> {
        let mut tools = BTreeMap::new();
        for item in self.array(key, value, MAX_TOOLS).into_iter().flatten() {
            let DeValue::Table(table) = item.get_ref() else {
                self.problem(Some(item.span()), "write each tool as a table [[tools]]");
                continue;
            };
            let Some((name, tool)) = self.tool(table, item.span()) else { continue };
            if tools.contains_key(&name) {
                self.problem(Some(item.span()), format!("tool {:?} is declared twice", name.as_str()));
            }
            tools.insert(name, tool);
        }
        if tools.is_empty() {
            self.problem(Some(value.span()), format!("{key}: declare at least one"));
        }
        tools
    }

    fn tool(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Option<(ToolName, Tool)> {
        let (mut name, mut tool) = (None, Tool::default());
        for (key, value) in table {
            match key.get_ref().as_ref() {
                it @ "name" => name = Some(self.parsed::<ToolName>(it, value)),
                it @ "schema_sha256" => {
                    tool.schema_sha256 = self.parsed::<HexDigest>(it, value).map(|digest| digest.0);
                }
                it @ "labels" => tool.labels = self.labels(it, value),
                other => self.problem(Some(key.span()), format!("unknown key {other:?} of a tool")),
            }
        }
        if name.is_none() {
            self.problem(Some(span), "the tool has no name");
        }
        Some((name??, tool))
    }

    fn labels(&mut self, key: Key<'_>, value: &Value<'_>) -> BTreeSet<Label> {
        self.list::<LabelText>(key, value, MAX_LABELS).into_iter().map(|label| label.0).collect()
    }
}

struct HexDigest(String);

impl FromStr for HexDigest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sound = text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if sound { Ok(Self(text.to_owned())) } else { Err("is not 64 hexadecimal digits in lower case") }
    }
}

struct LabelText(Label);

impl FromStr for LabelText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let sound = (1..=64).contains(&text.len())
            && text.bytes().all(|c| plain(c) || b"._:-".contains(&c))
            && text.bytes().next().is_some_and(plain);
        if sound { Ok(Self(text.into())) } else { Err("is not a label (1 to 64 of a-z 0-9 . _ : -)") }
    }
}

const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
