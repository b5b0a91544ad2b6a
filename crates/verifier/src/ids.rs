//! The names of things, each a type of its own, so that swapping two arguments does not compile.
//!
//! None of them is a secret, and none of them proves anything by itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Number of partitions of a store. Fixed: it is part of every task id.
pub const PARTITIONS: u8 = 64;

/// One of the [`PARTITIONS`] independent histories of a store. A task tree lives in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    /// From a number; `None` from [`PARTITIONS`] on.
    pub const fn new(number: u8) -> Option<Self> {
        if number < PARTITIONS { Some(Self(number)) } else { None }
    }

    /// Folds any byte into a partition: its lower six bits.
    pub const fn from_low_bits(byte: u8) -> Self {
        Self(byte % PARTITIONS)
    }

    /// 0 to 63.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// Text that is not an id of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct InvalidId(pub &'static str);

/// A task. A UUID of version 7 (RFC 9562): 48 bits of milliseconds, then random bits of which six hold the partition of the
/// task's root. Text form: 36 characters, lower case, with hyphens; other forms are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId([u8; 16]);

impl TaskId {
    /// A new id from a moment (milliseconds since the epoch), the partition of the root task and 10 random bytes.
    pub const fn from_parts(unix_millis: u64, partition: Partition, random: [u8; 10]) -> Self {
        let [_, _, t0, t1, t2, t3, t4, t5] = unix_millis.to_be_bytes();
        let [r0, r1, r2, r3, r4, r5, r6, r7, r8, _] = random;
        // Version 7 in the high half of byte 6; the partition in the low six bits of byte 7; variant 10 in byte 8.
        Self([
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            0x70 | (r0 & 0x0f),
            (r1 & 0xc0) | partition.number(),
            0x80 | (r2 & 0x3f),
            r3,
            r4,
            r5,
            r6,
            r7,
            r8,
            random[9],
        ])
    }

    /// From the 16 bytes of the UUID; refuses other versions and variants.
    pub const fn from_bytes(bytes: [u8; 16]) -> Result<Self, InvalidId> {
        if bytes[6] >> 4 != 7 || bytes[8] >> 6 != 2 { Err(InvalidId("task id")) } else { Ok(Self(bytes)) }
    }

    /// The 16 bytes of the UUID.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// When the id was made, in milliseconds since the epoch.
    pub const fn unix_millis(&self) -> u64 {
        let [t0, t1, t2, t3, t4, t5, ..] = self.0;
        u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5])
    }

    /// Where the task's tree lives.
    pub const fn partition(&self) -> Partition {
        Partition::from_low_bits(self.0[7])
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let mut digits = hex_digits(&self.0);
        for (i, slot) in text.iter_mut().enumerate() {
            if !matches!(i, 8 | 13 | 18 | 23)
                && let Some(digit) = digits.next()
            {
                *slot = digit;
            }
        }
        write_ascii(f, &text)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const WRONG: InvalidId = InvalidId("task id (36 characters, as the broker printed it)");
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(WRONG);
        }
        let mut digits = [0u8; 32];
        let mut filled = digits.iter_mut();
        for (i, &c) in text.iter().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != b'-' {
                    return Err(WRONG);
                }
            } else if let Some(slot) = filled.next() {
                *slot = c;
            }
        }
        Self::from_bytes(unhex(&digits).ok_or(WRONG)?).map_err(|_| WRONG)
    }
}

/// A credential: the `jti` of a token, the serial number of a certificate. The task's 16 bytes and a number that counts the
/// task's credentials. Text form: 40 hexadecimal digits in lower case; upper case and colons, as OpenSSL prints serials, are read.
///
/// As 20 octets with a clear top bit (until the year 6429) it is a legal serial number by RFC 5280 4.1.2.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId {
    /// The task that it names.
    pub task: TaskId,
    /// Its place among the credentials of the task, from 0.
    pub number: u32,
}

impl CredentialId {
    /// The 20 octets.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let (task, number) = bytes.split_at_mut(16);
        task.copy_from_slice(self.task.as_bytes());
        number.copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// From 20 octets.
    pub fn from_bytes(bytes: [u8; 20]) -> Result<Self, InvalidId> {
        const WRONG: InvalidId = InvalidId("credential id");
        let (task, number) = bytes.split_first_chunk::<16>().ok_or(WRONG)?;
        let number: [u8; 4] = number.try_into().map_err(|_| WRONG)?;
        Ok(Self { task: TaskId::from_bytes(*task).map_err(|_| WRONG)?, number: u32::from_be_bytes(number) })
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 40];
        text.iter_mut().zip(hex_digits(&self.to_bytes())).for_each(|(slot, digit)| *slot = digit);
        write_ascii(f, &text)
    }
}

impl FromStr for CredentialId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const WRONG: InvalidId = InvalidId("credential id (40 hexadecimal digits)");
        if text.len() > 59 {
            return Err(WRONG);
        }
        let mut digits = [0u8; 40];
        let mut count = 0;
        for c in text.bytes().filter(|&c| c != b':') {
            *digits.get_mut(count).ok_or(WRONG)? = c.to_ascii_lowercase();
            count += 1;
        }
        if count != digits.len() {
            return Err(WRONG);
        }
        Self::from_bytes(unhex(&digits).ok_or(WRONG)?).map_err(|_| WRONG)
    }
}

/// By how many milliseconds the ids of a generation's tasks are younger than the generation itself. Brokers whose clocks are ahead have begun tasks of the one before with ids that
/// look younger than this one; a certificate, which names no generation, is judged by the id. More than the clocks of two brokers can be apart, of which each is within a
/// second of the store's.
pub const GENERATION_GAP_MILLIS: u64 = 2_500;

/// A generation of a partition: 48 bits of milliseconds, then 48 random bits, so that a later one is greater. It grows when the
/// history of the partition can no longer be trusted. Text form: 24 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation([u8; 12]);

impl Generation {
    /// A generation that began at a moment (milliseconds since the epoch).
    pub const fn from_parts(unix_millis: u64, random: [u8; 6]) -> Self {
        let [_, _, t0, t1, t2, t3, t4, t5] = unix_millis.to_be_bytes();
        let [r0, r1, r2, r3, r4, r5] = random;
        Self([t0, t1, t2, t3, t4, t5, r0, r1, r2, r3, r4, r5])
    }

    /// From its 12 bytes.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Its 12 bytes.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// When it began, in milliseconds since the epoch.
    pub const fn unix_millis(&self) -> u64 {
        let [t0, t1, t2, t3, t4, t5, ..] = self.0;
        u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5])
    }

    /// The least time that the id of a task of this generation may show; see [`GENERATION_GAP_MILLIS`].
    pub const fn first_task_millis(&self) -> u64 {
        self.unix_millis().saturating_add(GENERATION_GAP_MILLIS)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 24];
        text.iter_mut().zip(hex_digits(&self.0)).for_each(|(slot, digit)| *slot = digit);
        write_ascii(f, &text)
    }
}

impl FromStr for Generation {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const WRONG: InvalidId = InvalidId("generation (24 hexadecimal digits)");
        let digits: &[u8; 24] = text.as_bytes().try_into().map_err(|_| WRONG)?;
        unhex(digits).map(Self).ok_or(WRONG)
    }
}

macro_rules! as_text {
    ($($name:ident $length:literal)*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an id in its text form")
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        // Stored and signed ids have one spelling.
                        if text.len() != $length || text.bytes().any(|c| c.is_ascii_uppercase()) {
                            return Err(E::custom("not an id in its text form"));
                        }
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )* };
}

as_text!(TaskId 36 CredentialId 40 Generation 24);

/// Two lower-case digits for each byte. Ids are written once for each credential, so without the formatting machinery.
fn hex_digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + (nibble - 10) };
    bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 0x0f)])
}

fn write_ascii(f: &mut fmt::Formatter<'_>, text: &[u8]) -> fmt::Result {
    f.write_str(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
}

/// `2 * N` lower-case digits to `N` bytes.
fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskId {
        TaskId::from_parts(1_790_000_000_123, Partition::from_low_bits(41), [0xff; 10])
    }

    #[test]
    fn a_task_id_is_a_version_7_uuid_that_carries_its_partition() {
        let text = task().to_string();
        assert_eq!(text.len(), 36);
        assert_eq!((text.get(14..15).unwrap(), text.get(19..20).unwrap()), ("7", "b"));
        assert_eq!(task().partition().number(), 41);
        assert_eq!(task().unix_millis(), 1_790_000_000_123);
        assert_eq!(text.parse(), Ok(task()));
    }

    #[test]
    fn other_spellings_of_a_task_id_are_refused() {
        let text = task().to_string();
        for bad in [
            text.to_uppercase(),
            text.replace('-', ""),
            format!("{text} "),
            text.replace("-7", "-4"),
            "é".repeat(18),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_credential_id_is_a_positive_serial_of_twenty_octets_and_reads_as_openssl_prints_it() {
        let id = CredentialId { task: task(), number: 7 };
        assert_eq!(id.to_bytes()[0] & 0x80, 0);
        assert_ne!(id.to_bytes()[0], 0, "a leading zero octet would be dropped in DER");
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        let colons: Vec<_> = text.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).unwrap()).collect();
        assert_eq!(colons.join(":").parse(), Ok(id));
        assert!(text.get(1..).unwrap().parse::<CredentialId>().is_err());
        assert!(format!("{text}0").parse::<CredentialId>().is_err());
    }

    #[test]
    fn in_json_an_id_has_one_spelling() {
        let id = CredentialId { task: task(), number: 0xabcd };
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<CredentialId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<CredentialId>(&json.to_uppercase()).is_err());
        assert!(serde_json::from_str::<TaskId>("7").is_err());
        let generation = Generation::from_parts(0x0123_4567_89ab, [0xff; 6]);
        assert_eq!(serde_json::to_string(&generation).unwrap(), "\"0123456789abffffffffffff\"");
    }

    #[test]
    fn a_later_generation_is_greater() {
        let (a, b) = (Generation::from_parts(1, [0xff; 6]), Generation::from_parts(2, [0; 6]));
        assert!(a < b);
        assert_eq!(b.to_string().parse(), Ok(b));
        assert_eq!(b.unix_millis(), 2);
    }
}
