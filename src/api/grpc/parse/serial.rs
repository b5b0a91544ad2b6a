//! Serial numbers of certificates, as programs print them. Ours begin with a zero nibble, which most of them leave out.

use crate::error::{Error, Result};

/// RFC 5280 section 4.1.2.2: no serial number is longer, in octets.
const OCTETS: usize = 20;
/// The longest text that is looked at, in bytes: 20 octets with colons and a sign of their base.
const MAX_TEXT: usize = 64;

const FORMS: &str = "is no serial number of a certificate: write it in hexadecimal digits (with 0x, or colons between pairs, if you \
                     like) or in decimal ones, at most 20 octets";

/// The 20 octets of a serial number, zeros before a shorter one: hexadecimal as Go, Java, OpenSSL and Python's `hex()` print it, or decimal as
/// Python's `int` and Go's `big.Int` do. Digits alone are decimal from the 41st on: 40 hexadecimal ones are 20 octets, and no serial number of
/// ours has less than 46 decimal ones. The text is never repeated: it may be a token that was put into the wrong field.
pub(super) fn octets(field: &str, text: &str) -> Result<[u8; OCTETS]> {
    let read = (text.len() <= MAX_TEXT).then(|| read(text.trim_ascii())).flatten();
    read.ok_or_else(|| Error::invalid(field, FORMS))
}

fn read(text: &str) -> Option<[u8; OCTETS]> {
    let bare = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if bare.is_none() && text.len() > 2 * OCTETS && text.bytes().all(|c| c.is_ascii_digit()) {
        return number(text.bytes(), 10);
    }
    match bare {
        Some(digits) => number(digits.bytes(), 16),
        // Between pairs, and nowhere else.
        None if text.contains(':') => text
            .split(':')
            .all(|pair| pair.len() == 2)
            .then(|| number(text.bytes().filter(|c| *c != b':'), 16))?,
        None => number(text.bytes(), 16),
    }
}

/// `None`: there is no digit, something that is none, or more than fits.
fn number(digits: impl Iterator<Item = u8>, base: u16) -> Option<[u8; OCTETS]> {
    let (mut octets, mut any) = ([0; OCTETS], false);
    for digit in digits {
        any = true;
        let mut carry = u16::try_from(char::from(digit).to_digit(u32::from(base))?).ok()?;
        for octet in octets.iter_mut().rev() {
            let [more, rest] = (u16::from(*octet) * base + carry).to_be_bytes();
            (carry, *octet) = (u16::from(more), rest);
        }
        if carry != 0 {
            return None;
        }
    }
    any.then_some(octets)
}
