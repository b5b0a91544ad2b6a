//! Limits on the arguments of a tool call.
//!
//! A constraint is a set of values; [`ArgumentConstraint::is_within`] is a subset test that errs on the side of "no". What a
//! tool makes of a value is not checked here: a limit on text says nothing about symbolic links or redirects.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::refusal::Refusal;
use crate::wire;

/// Most values in `one_of`.
pub const MAX_ONE_OF: usize = 64;
/// Longest string in a constraint, in bytes.
pub const MAX_STRING_BYTES: usize = 1024;
/// Most arguments constrained for one tool.
pub const MAX_ARGUMENTS: usize = 64;
/// Longest name of an argument, in bytes.
pub const MAX_ARGUMENT_NAME_BYTES: usize = 128;
/// `minimum` and `maximum` lie between this and its negation: integers that every JSON reader holds exactly (RFC 8259, section 6).
pub const MAX_LIMIT: i64 = (1 << 53) - 1;

/// A constraint that cannot be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid constraint: {0}")]
pub struct InvalidConstraint(pub &'static str);

/// A value that `one_of` can name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    /// A JSON string, compared byte by byte.
    String(String),
    /// A JSON integer; `1.0` is not `1`.
    Integer(i64),
    /// A JSON boolean.
    Boolean(bool),
}

impl Scalar {
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::String(a), Value::String(b)) => a == b,
            (Self::Integer(a), Value::Number(b)) => b.as_i64() == Some(*a),
            (Self::Boolean(a), Value::Bool(b)) => a == b,
            _ => false,
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::String(text) => Value::from(text.as_str()),
            Self::Integer(number) => Value::from(*number),
            Self::Boolean(truth) => Value::from(*truth),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an integer or a boolean")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::String(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                number.try_into().map(Scalar::Integer).map_err(|_| E::custom("integer too large"))
            }

            fn visit_bool<E: de::Error>(self, truth: bool) -> Result<Scalar, E> {
                Ok(Scalar::Boolean(truth))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// The parts of a constraint, not yet checked. A value must satisfy each part that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, DeriveDeserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Limits {
    /// The value is one of these. An empty list is refused.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub one_of: Option<Vec<Scalar>>,
    /// The value is a string that starts with this text, and no part of it between slashes is `..` (percent-encoded once, with
    /// backslashes, or interrupted by tabs and line breaks included), so that a path cannot climb out. It is a text: end a
    /// directory or an origin with a slash.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub prefix: Option<String>,
    /// The value is a number, at least this.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub minimum: Option<i64>,
    /// The value is a number, at most this.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub maximum: Option<i64>,
    /// The value is a string of at most this many Unicode code points, as `maxLength` of JSON Schema counts.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "wire::present")]
    pub max_length: Option<u32>,
}
wire::object_only!(Limits);

/// What one argument may be: checked [`Limits`], at least one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ArgumentConstraint(Limits);

impl ArgumentConstraint {
    /// Checks the limits: at least one, within the caps of this module, not for strings and numbers at once.
    pub fn new(limits: Limits) -> Result<Self, InvalidConstraint> {
        let Limits { one_of, prefix, minimum, maximum, max_length } = &limits;
        let (text, number) =
            (prefix.is_some() || max_length.is_some(), minimum.is_some() || maximum.is_some());
        let too_long = |text: &str| text.len() > MAX_STRING_BYTES;
        if one_of.is_none() && !text && !number {
            return Err(InvalidConstraint("it has no limit"));
        }
        if text && number {
            return Err(InvalidConstraint("it limits strings and numbers at once"));
        }
        if let Some(values) = one_of {
            if values.is_empty() || values.len() > MAX_ONE_OF {
                return Err(InvalidConstraint("one_of has no value or more than 64"));
            }
            if values.iter().any(|value| matches!(value, Scalar::String(text) if too_long(text))) {
                return Err(InvalidConstraint("a string in one_of has more than 1024 bytes"));
            }
        }
        if prefix.as_ref().is_some_and(|prefix| prefix.is_empty() || too_long(prefix)) {
            return Err(InvalidConstraint("prefix is empty or has more than 1024 bytes"));
        }
        if minimum.iter().chain(maximum).any(|limit| limit.unsigned_abs() > MAX_LIMIT.unsigned_abs()) {
            return Err(InvalidConstraint("minimum or maximum is beyond 2^53 - 1"));
        }
        if minimum.zip(*maximum).is_some_and(|(least, most)| least > most) {
            return Err(InvalidConstraint("minimum is greater than maximum"));
        }
        Ok(Self(limits))
    }

    /// The limits.
    pub const fn limits(&self) -> &Limits {
        &self.0
    }

    /// Whether the value satisfies each limit.
    pub fn permits(&self, value: &Value) -> bool {
        let Limits { one_of, prefix, minimum, maximum, max_length } = &self.0;
        one_of.as_ref().is_none_or(|values| values.iter().any(|scalar| scalar.is(value)))
            && prefix.as_ref().is_none_or(|prefix| value.as_str().is_some_and(|text| continues(text, prefix)))
            && max_length.is_none_or(|most| value.as_str().is_some_and(|text| is_at_most(text, most)))
            && (minimum.is_none() && maximum.is_none()
                || value.as_number().is_some_and(|number| is_between(number, *minimum, *maximum)))
    }

    /// Whether every value that this permits is permitted by `other` too. May say no where it is so, never yes where it is not.
    pub fn is_within(&self, other: &Self) -> bool {
        if let Some(values) = &self.0.one_of {
            let mut mine = values.iter().map(Scalar::to_value).filter(|value| self.permits(value));
            return mine.all(|value| other.permits(&value));
        }
        let (a, b) = (&self.0, &other.0);
        b.one_of.is_none()
            && narrows(&a.prefix, &b.prefix, |mine, theirs| mine.starts_with(theirs.as_str()))
            && narrows(&a.minimum, &b.minimum, |mine, theirs| mine >= theirs)
            && narrows(&a.maximum, &b.maximum, |mine, theirs| mine <= theirs)
            && narrows(&a.max_length, &b.max_length, |mine, theirs| mine <= theirs)
    }
}

/// Where `theirs` limits, `mine` must limit at least as much.
fn narrows<T>(mine: &Option<T>, theirs: &Option<T>, at_least_as_much: impl Fn(&T, &T) -> bool) -> bool {
    match (mine, theirs) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(mine), Some(theirs)) => at_least_as_much(mine, theirs),
    }
}

fn continues(text: &str, prefix: &str) -> bool {
    text.starts_with(prefix) && !has_parent_segment(text.as_bytes())
}

fn is_at_most(text: &str, most: u32) -> bool {
    // Code points are never more than bytes.
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    text.len() <= most || text.chars().take(most.saturating_add(1)).count() <= most
}

#[expect(clippy::cast_precision_loss, reason = "limits are within 2^53, where f64 holds every integer")]
fn is_between(number: &Number, minimum: Option<i64>, maximum: Option<i64>) -> bool {
    if let Some(integer) = number.as_i64() {
        minimum.is_none_or(|least| integer >= least) && maximum.is_none_or(|most| integer <= most)
    } else {
        number.as_f64().is_some_and(|real| {
            minimum.is_none_or(|least| real >= least as f64) && maximum.is_none_or(|most| real <= most as f64)
        })
    }
}

/// Whether a part between slashes is `..` for some reader of paths or URLs: `%2e`, `%2f` and `%5c` count as what they stand
/// for, a backslash as a slash, a zero byte as an end; tabs and line breaks count as nothing (WHATWG URL, section 4.4).
fn has_parent_segment(mut rest: &[u8]) -> bool {
    // The number of dots that the present segment consists of, if of nothing else.
    let mut dots = Some(0u32);
    loop {
        let byte;
        (byte, rest) = match rest {
            [] => return dots == Some(2),
            [b'%', b'2', b'e' | b'E', rest @ ..] => (b'.', rest),
            [b'%', b'2', b'f' | b'F', rest @ ..] => (b'/', rest),
            [b'%', b'5', b'c' | b'C', rest @ ..] => (b'/', rest),
            [byte, rest @ ..] => (*byte, rest),
        };
        match byte {
            b'/' | b'\\' | 0 if dots == Some(2) => return true,
            b'/' | b'\\' | 0 => dots = Some(0),
            b'.' => dots = dots.map(|n| n.saturating_add(1)),
            b'\t' | b'\n' | b'\r' => {}
            _ => dots = None,
        }
    }
}

impl<'de> Deserialize<'de> for ArgumentConstraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<Limits as Deserialize>::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The constraints of one tool, by argument. Empty: every call is permitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Constraints(BTreeMap<String, ArgumentConstraint>);

impl Constraints {
    /// From pairs; refuses a name that is empty, too long or repeated, and more than [`MAX_ARGUMENTS`].
    pub fn new(
        pairs: impl IntoIterator<Item = (String, ArgumentConstraint)>,
    ) -> Result<Self, InvalidConstraint> {
        let mut constraints = Self::default();
        for (argument, constraint) in pairs {
            constraints.insert(argument, constraint)?;
        }
        Ok(constraints)
    }

    fn insert(&mut self, argument: String, constraint: ArgumentConstraint) -> Result<(), InvalidConstraint> {
        if argument.is_empty() || argument.len() > MAX_ARGUMENT_NAME_BYTES {
            return Err(InvalidConstraint("the name of an argument is empty or has more than 128 bytes"));
        }
        if self.0.len() == MAX_ARGUMENTS {
            return Err(InvalidConstraint("more than 64 arguments"));
        }
        match self.0.insert(argument, constraint) {
            None => Ok(()),
            Some(_) => Err(InvalidConstraint("an argument is named twice")),
        }
    }

    /// Whether nothing is constrained.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The constraint of one argument.
    pub fn get(&self, argument: &str) -> Option<&ArgumentConstraint> {
        self.0.get(argument)
    }

    /// All, ordered by argument.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ArgumentConstraint)> {
        self.0.iter().map(|(argument, constraint)| (argument.as_str(), constraint))
    }

    /// Whether each constrained argument is there and permitted. Arguments without a constraint may be anything.
    pub fn permits_call(&self, arguments: &Map<String, Value>) -> bool {
        self.0
            .iter()
            .all(|(name, constraint)| arguments.get(name).is_some_and(|value| constraint.permits(value)))
    }

    /// Whether every call that this permits is permitted by `other` too. May say no where it is so, never yes where it is not.
    pub fn is_within(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, theirs)| self.0.get(name).is_some_and(|mine| mine.is_within(theirs)))
    }
}

impl<'de> Deserialize<'de> for Constraints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ConstraintsVisitor;
        impl<'de> Visitor<'de> for ConstraintsVisitor {
            type Value = Constraints;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Constraints, A::Error> {
                let mut constraints = Constraints::default();
                while let Some(argument) = map.next_key::<String>()? {
                    if constraints.0.contains_key(&argument) {
                        return Err(wire::refused(Refusal::DuplicateMember));
                    }
                    let constraint = map.next_value()?;
                    constraints.insert(argument, constraint).map_err(de::Error::custom)?;
                }
                Ok(constraints)
            }
        }
        deserializer.deserialize_map(ConstraintsVisitor)
    }
}
