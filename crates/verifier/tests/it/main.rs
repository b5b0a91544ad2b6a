//! Judges tokens from outside, good ones and hostile ones, with real keys.

#[cfg(test)]
mod binding;
#[cfg(test)]
mod constraints;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod hostile_claims;
#[cfg(test)]
mod hostile_envelope;
#[cfg(test)]
mod keysets;
#[cfg(test)]
mod moments;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod support;
#[cfg(test)]
mod verdicts;
