//! Judges tokens from outside, good ones and hostile ones, with real keys.

#[cfg(test)]
mod profile;
#[cfg(test)]
mod support;
