//! Signed positions: what a broker knew of its store, in the hands of those who follow. One that comes back with them shows a later broker that its store has lost something (G6).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prost::Message as _;
use taskpass_verifier::ids::{Generation, PARTITIONS, Partition};
use taskpass_verifier::keyset::KeyId;

use crate::error::{Error, Result};
use crate::ops::command::Known;
use crate::proto;
use crate::task::store::Position;

/// What is signed is this, a zero byte, and the payload.
const SIGNED_AS: &[u8] = b"taskpass-positions-v1\0";
/// The longest payload that is read: a position takes less than 64 bytes.
const MOST: usize = PARTITIONS as usize * 64;

type Positions = Vec<(Partition, Position)>;

/// Signs positions once for all streams, for as long as they stay the same.
#[derive(Debug, Default)]
pub(super) struct SignedPositions(Mutex<HashMap<KeyId, (Positions, proto::SignedPositions)>>);

impl SignedPositions {
    /// These, signed under a key by `sign`.
    pub(super) fn of(
        &self,
        positions: Positions,
        key: KeyId,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64]>,
    ) -> Result<proto::SignedPositions> {
        let mut signed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((same, message)) = signed.get(&key)
            && *same == positions
        {
            return Ok(message.clone());
        }
        let payload = payload(&positions);
        let signature = sign(&[SIGNED_AS, &payload].concat())?;
        let message = proto::SignedPositions {
            payload: payload.into(),
            signature: signature.to_vec().into(),
            key_id: key.to_string(),
        };
        signed.insert(key, (positions, message.clone()));
        Ok(message)
    }
}

fn payload(positions: &Positions) -> Vec<u8> {
    let message = |(partition, at): &(Partition, Position)| proto::FeedPosition {
        partition: partition.number().into(),
        generation: at.generation.as_bytes().to_vec().into(),
        seq: at.seq,
        chain: at.chain.to_vec().into(),
    };
    proto::FeedPositions { positions: positions.iter().map(message).collect() }.encode_to_vec()
}

/// What a follower brings along. Whether the signature is one of ours is for the operation to see.
pub(super) fn known(field: &str, said: proto::SignedPositions) -> Result<Known> {
    let bad = |what: &str| Error::invalid(field, what);
    if said.payload.len() > MOST {
        return Err(bad("too long"));
    }
    let positions =
        proto::FeedPositions::decode(&*said.payload).map_err(|_| bad("not what a broker signs"))?;
    let positions = positions.positions.into_iter().map(position).collect::<Option<_>>();
    Ok(Known {
        positions: positions.ok_or_else(|| bad("not what a broker signs"))?,
        signed: [SIGNED_AS, &said.payload].concat(),
        signature: said.signature.to_vec(),
        key_id: said.key_id.parse().map_err(|_| bad("key_id is not the thumbprint of a key"))?,
    })
}

fn position(said: proto::FeedPosition) -> Option<(Partition, Position)> {
    let partition = u8::try_from(said.partition).ok().and_then(Partition::new)?;
    let generation = Generation::from_bytes((&*said.generation).try_into().ok()?);
    Some((partition, Position { generation, seq: said.seq, chain: (&*said.chain).try_into().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(seq: u64) -> Positions {
        let generation = Generation::from_parts(7, [1; 6]);
        Partition::all().map(|partition| (partition, Position { generation, seq, chain: [9; 20] })).collect()
    }

    fn key() -> KeyId {
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".parse().unwrap()
    }

    /// What stands for a signature here shows what was to be signed.
    fn sign(input: &[u8]) -> Result<[u8; 64]> {
        Ok([u8::try_from(input.len() % 256).unwrap(); 64])
    }

    #[test]
    fn what_was_signed_is_read_again() {
        let mut input = Vec::new();
        let signed = SignedPositions::default()
            .of(positions(u64::MAX), key(), |signed| {
                input = signed.to_vec();
                sign(signed)
            })
            .unwrap();
        let known = known("hello.known", signed).unwrap();
        assert_eq!((known.positions, known.key_id), (positions(u64::MAX), key()));
        assert!(known.signed == input && input.starts_with(b"taskpass-positions-v1\0"));
        assert_eq!(known.signature, sign(&input).unwrap());
    }

    #[test]
    fn the_same_positions_are_signed_once_and_others_anew() {
        let all = SignedPositions::default();
        let first = all.of(positions(1), key(), sign).unwrap();
        assert_eq!(all.of(positions(1), key(), |_| panic!("signed twice")).unwrap(), first);
        assert_ne!(all.of(positions(2), key(), sign).unwrap().payload, first.payload);
    }

    #[test]
    fn what_no_broker_signs_is_refused() {
        let good = SignedPositions::default().of(positions(1), key(), sign).unwrap();
        assert!(known("hello.known", good.clone()).is_ok());
        for bad in [
            proto::SignedPositions { payload: vec![7; MOST + 1].into(), ..good.clone() },
            proto::SignedPositions { payload: b"\x0a\x02\x08\x40".to_vec().into(), ..good.clone() },
            proto::SignedPositions { payload: b"x".to_vec().into(), ..good.clone() },
            proto::SignedPositions { key_id: "x".into(), ..good },
        ] {
            assert!(known("hello.known", bad).is_err());
        }
    }
}
