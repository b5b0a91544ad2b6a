//! Bytes that must not be seen: wiped when dropped, silent in `Debug`, without `Display`.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A secret value. What is inside is reached by [`Secret::expose`] alone, so that a search for that word finds every use.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes charge of `value`.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The secret itself. Never log it, never put it into an error.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
