use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refusal::Refusal;
use crate::wire;

/// Most items in a scope, `mcp` included.
pub const MAX_SCOPE_ITEMS: usize = 256;
/// Longest name of a tool.
pub const MAX_TOOL_NAME_BYTES: usize = 128;

/// Admits to the endpoint and grants no tool.
pub(crate) const ADMISSION: &str = "mcp";
const TOOL: &str = "mcp:tool:";

/// The name of a tool: 1 to 128 of the characters `A-Z a-z 0-9 . - _ /`, all legal in a scope (RFC 6749, section 3.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolName(Box<str>);

/// Text that is not the name of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tool name (1 to 128 of A-Z a-z 0-9 . - _ /)")]
pub struct InvalidToolName;

impl ToolName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_tool_name(text: &str) -> bool {
    (1..=MAX_TOOL_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'/'))
}

impl FromStr for ToolName {
    type Err = InvalidToolName;

    fn from_str(text: &str) -> Result<Self, InvalidToolName> {
        if is_tool_name(text) { Ok(Self(text.into())) } else { Err(InvalidToolName) }
    }
}

impl std::borrow::Borrow<str> for ToolName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The claim `scope` (RFC 9068, section 2.2.3): `mcp`, then `mcp:tool:<name>` items, single spaces between. No wildcards.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(Box<str>);

impl Scope {
    /// Admission, and these tools in this order. Refuses more than [`MAX_SCOPE_ITEMS`] items.
    pub fn new<'a>(tools: impl IntoIterator<Item = &'a ToolName>) -> Result<Self, Refusal> {
        let mut text = String::from(ADMISSION);
        for (i, tool) in tools.into_iter().enumerate() {
            if i + 1 >= MAX_SCOPE_ITEMS {
                return Err(Refusal::TooManyScopeItems);
            }
            text.push(' ');
            text.push_str(TOOL);
            text.push_str(tool.as_str());
        }
        Ok(Self(text.into()))
    }

    /// The claim's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the tools.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter_map(|item| item.strip_prefix(TOOL))
    }

    /// Whether it names this tool, exactly.
    pub fn has_tool(&self, tool: &str) -> bool {
        self.tools().any(|granted| granted == tool)
    }
}

impl FromStr for Scope {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let mut items = text.split(' ');
        if items.next() != Some(ADMISSION) {
            return Err(Refusal::MalformedScope);
        }
        for (i, item) in items.enumerate() {
            if i + 1 >= MAX_SCOPE_ITEMS {
                return Err(Refusal::TooManyScopeItems);
            }
            if !item.strip_prefix(TOOL).is_some_and(is_tool_name) {
                return Err(Refusal::MalformedScope);
            }
        }
        Ok(Self(text.into()))
    }
}

macro_rules! text_claim {
    ($($name:ident)*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    )* };
}

text_claim!(ToolName Scope);

impl<'de> Deserialize<'de> for ToolName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| text.parse().map_err(|_| Refusal::MalformedDetails))
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, str::parse)
    }
}
