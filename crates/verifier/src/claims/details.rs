use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};

use super::scope::{MAX_SCOPE_ITEMS, ToolName};
use crate::constraint::Constraints;
use crate::refusal::Refusal;
use crate::wire;

/// `type` of every object in `authorization_details`.
pub const DETAIL_TYPE: &str = "mcp_tool_call";

/// One object of `authorization_details` (RFC 9396): the limits on calls of one tool. It narrows what `scope` grants and grants
/// nothing itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct AuthorizationDetail {
    #[serde(rename = "type")]
    detail_type: DetailType,
    tool: ToolName,
    constraints: Constraints,
}
wire::object_only!(AuthorizationDetail);

impl AuthorizationDetail {
    /// The tool.
    pub const fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// What its arguments may be; never empty.
    pub const fn constraints(&self) -> &Constraints {
        &self.constraints
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DetailType;

impl Serialize for DetailType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(DETAIL_TYPE)
    }
}

impl<'de> Deserialize<'de> for DetailType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::text(deserializer, |text| match text {
            DETAIL_TYPE => Ok(Self),
            _ => Err(Refusal::MalformedDetails),
        })
    }
}

/// The claim `authorization_details`: at most one object per tool. Empty means that the claim is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AuthorizationDetails(Vec<AuthorizationDetail>);

impl AuthorizationDetails {
    /// From tools and their constraints. Tools without constraints are left out; a tool named twice or more than
    /// [`MAX_SCOPE_ITEMS`] tools are refused.
    pub fn new(tools: impl IntoIterator<Item = (ToolName, Constraints)>) -> Result<Self, Refusal> {
        let mut details = Self::default();
        for (tool, constraints) in tools {
            if !constraints.is_empty() {
                details.push(AuthorizationDetail { detail_type: DetailType, tool, constraints })?;
            }
        }
        Ok(details)
    }

    fn push(&mut self, detail: AuthorizationDetail) -> Result<(), Refusal> {
        let taken = self.get(detail.tool.as_str()).is_some();
        if taken || self.0.len() == MAX_SCOPE_ITEMS || detail.constraints.is_empty() {
            return Err(Refusal::MalformedDetails);
        }
        self.0.push(detail);
        Ok(())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The constraints of a tool; `None` when its arguments are not limited.
    pub fn get(&self, tool: &str) -> Option<&Constraints> {
        self.0.iter().find(|detail| detail.tool.as_str() == tool).map(AuthorizationDetail::constraints)
    }

    /// All of them, in the order of the token.
    pub fn iter(&self) -> impl Iterator<Item = &AuthorizationDetail> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for AuthorizationDetails {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DetailsVisitor;
        impl<'de> Visitor<'de> for DetailsVisitor {
            type Value = AuthorizationDetails;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AuthorizationDetails, A::Error> {
                let mut details = AuthorizationDetails::default();
                while let Some(detail) = seq.next_element()? {
                    details.push(detail).map_err(wire::refused)?;
                }
                if details.is_empty() { Err(wire::refused(Refusal::MalformedDetails)) } else { Ok(details) }
            }
        }
        deserializer.deserialize_seq(DetailsVisitor)
    }
}
