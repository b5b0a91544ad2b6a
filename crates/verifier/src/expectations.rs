//! What a verifier expects of a token.

use std::fmt;
use std::str::FromStr;

use crate::digest::Thumbprint;

/// How an audience wants tokens bound to their bearer's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EnforcementProfile {
    /// No binding is demanded; a token that has one is held to it all the same.
    Bearer,
    /// Every token is bound to the certificate presented (RFC 8705).
    X5tS256,
    /// Every token is bound to the DPoP key proven (RFC 9449).
    Jkt,
}

impl EnforcementProfile {
    /// The name in registers and configuration: `bearer`, `x5t#S256` or `jkt`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::X5tS256 => "x5t#S256",
            Self::Jkt => "jkt",
        }
    }
}

impl fmt::Display for EnforcementProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that names no enforcement profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enforcement profile (bearer, x5t#S256 or jkt)")]
pub struct InvalidProfile;

impl FromStr for EnforcementProfile {
    type Err = InvalidProfile;

    fn from_str(text: &str) -> Result<Self, InvalidProfile> {
        [Self::Bearer, Self::X5tS256, Self::Jkt]
            .into_iter()
            .find(|profile| profile.as_str() == text)
            .ok_or(InvalidProfile)
    }
}

/// Keys whose possession the bearer has proven to the caller, on the connection or request that brought the token. This crate
/// takes the caller's word for the proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Presented {
    /// The certificate of the bearer's TLS connection.
    pub certificate: Option<Thumbprint>,
    /// The key of the bearer's DPoP proof.
    pub jkt: Option<Thumbprint>,
}

impl Presented {
    /// Nothing was proven.
    pub const NOTHING: Self = Self { certificate: None, jkt: None };

    /// A client certificate alone.
    pub const fn certificate(thumbprint: Thumbprint) -> Self {
        Self { certificate: Some(thumbprint), jkt: None }
    }

    /// A DPoP key alone.
    pub const fn jkt(thumbprint: Thumbprint) -> Self {
        Self { certificate: None, jkt: Some(thumbprint) }
    }
}

/// What a verifier expects, and what it saw beside the token. The key set handed in beside it must be that of `issuer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectations<'a> {
    /// The issuer, compared byte by byte.
    pub issuer: &'a str,
    /// The verifier's own audience, compared byte by byte.
    pub audience: &'a str,
    /// The binding that the audience demands.
    pub profile: EnforcementProfile,
    /// The keys that the bearer proved.
    pub presented: Presented,
}
