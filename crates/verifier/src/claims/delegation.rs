use serde::{Deserialize, Serialize};

use crate::wire;

/// Most actors in a chain.
pub const MAX_ACTORS: usize = 8;

/// The claim `act` (RFC 8693, section 4.1): who acts, and through whom it came. Outermost is the present actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Actor {
    /// The actor.
    pub sub: String,
    /// The actor before.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub act: Option<Box<Actor>>,
}
wire::object_only!(Actor);

impl Actor {
    /// This one and the earlier ones, the present one first.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |actor| actor.act.as_deref())
    }
}
