//! The signatures of the feed's frames. A look at the store has something to say to many streams at once: what becomes ready together is signed together, by one signature for all of it,
//! as [`taskpass_verifier::feed::batch`] says.

use std::sync::{Arc, Mutex, PoisonError};

use prost::bytes::Bytes;
use taskpass_verifier::feed::batch::{self, Batch};
use taskpass_verifier::keyset::KeyId;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::identity::TrustDomain;
use crate::keys::{JwtKey, SIGNATURE_LEN};

use super::Broker;

/// What is signed of a payload alone is this, a zero byte, and the payload: so that no signature of a frame is one of anything else.
const SIGNED_AS: &[u8] = b"taskpass-feed-v1\0";

/// The signature of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSignature {
    /// Over the payload alone, or over all that were signed with it.
    pub signature: [u8; SIGNATURE_LEN],
    /// The feed key.
    pub kid: KeyId,
    /// Where the payload stands among the others; `None`: it was signed alone.
    pub place: Option<Place>,
}

/// See [`batch::Place`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which of them it is, from 0.
    pub index: u64,
    /// How many they are.
    pub size: u64,
    /// The nodes of its proof.
    pub path: Vec<u8>,
}

/// What waits to be signed together.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<One>>);

struct One {
    signer: Arc<JwtKey>,
    payload: Bytes,
    signed: oneshot::Sender<Result<FrameSignature>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Broker {
    /// Signs the payload of a frame with the feed key of a trust domain: whoever else has something to say at this moment shares the signature.
    pub async fn sign_frame(&self, trust_domain: &TrustDomain, payload: Bytes) -> Result<FrameSignature> {
        let signer = self.feed_signer(trust_domain)?;
        self.frames.sign(signer, payload).await
    }
}

impl Waiting {
    async fn sign(self: &Arc<Self>, signer: Arc<JwtKey>, payload: Bytes) -> Result<FrameSignature> {
        let (signed, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(One { signer, payload, signed });
            waiting.len() == 1
        };
        if is_first {
            // A task of its own: the stream that was first may go while the others wait.
            let all = Arc::clone(self);
            tokio::spawn(async move {
                // Whoever was woken by the same look has its turn first.
                tokio::task::yield_now().await;
                let waiting = std::mem::take(&mut *all.0.lock().unwrap_or_else(PoisonError::into_inner));
                sign_all(waiting);
            });
        }
        answer.await.map_err(|_| Error::internal("the signing of frames was cut off"))?
    }
}

/// Signs what is under one key together.
fn sign_all(mut waiting: Vec<One>) {
    while let Some(first) = waiting.first() {
        let signer = Arc::clone(&first.signer);
        let kid = signer.kid();
        let (most, all) = (usize::try_from(batch::MOST).unwrap_or(usize::MAX), std::mem::take(&mut waiting));
        let (mut together, mut others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|one| one.signer.kid() == kid);
        others.extend(together.split_off(together.len().min(most)));
        waiting = others;
        let batch = Batch::new(together.iter().map(|one| batch::leaf(&one.payload)).collect());
        let batch = batch.filter(|batch| batch.size() > 1);
        let alone = || together.first().map(|one| [SIGNED_AS, &one.payload].concat()).unwrap_or_default();
        let to_sign = batch.as_ref().map_or_else(alone, Batch::head);
        let signature = signer.sign_now(&to_sign);
        for (number, one) in together.into_iter().enumerate() {
            let place = batch.as_ref().map(|batch| Place {
                index: number as u64,
                size: batch.size(),
                path: batch.path(number),
            });
            let answer = match &signature {
                Ok(signature) => Ok(FrameSignature { signature: *signature, kid, place }),
                Err(error) => Err(Error::internal(error.log_line())),
            };
            // It may have gone.
            let _gone = one.signed.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use taskpass_verifier::keyset::VerificationKey;

    use super::*;
    use crate::keys::Signer as _;
    use crate::keys::testing::{domain, keyring};

    /// The feed keys of two trust domains.
    async fn keys() -> [Arc<JwtKey>; 2] {
        let keyring = keyring().await;
        ["acme.test", "beta.test"].map(|name| Arc::clone(keyring.feed_signer(&domain(name)).unwrap()))
    }

    fn payload(number: usize) -> Bytes {
        Bytes::from(format!("frame {number}"))
    }

    fn holds(signed: &FrameSignature, payload: &[u8], key: &VerificationKey) -> bool {
        let head = match &signed.place {
            None => Some([SIGNED_AS, payload].concat()),
            Some(Place { index, size, path }) => {
                batch::Place { index: *index, size: *size, path }.head(payload)
            }
        };
        head.is_some_and(|head| key.has_signed(&head, &signed.signature))
    }

    #[tokio::test]
    async fn what_is_ready_together_shares_a_signature_and_each_is_good_by_itself() {
        let (waiting, [key, _]) = (Arc::<Waiting>::default(), keys().await);
        let frames = (0..50).map(|number| waiting.sign(Arc::clone(&key), payload(number)));
        let signed: Vec<_> = join_all(frames).await.into_iter().map(Result::unwrap).collect();
        for (number, one) in signed.iter().enumerate() {
            assert!(holds(one, &payload(number), key.public()) && one.kid == key.kid());
            assert!(!holds(one, &payload(number + 1), key.public()));
            assert_eq!(one.signature, signed[0].signature);
        }
    }

    #[tokio::test]
    async fn one_that_nobody_joins_is_signed_alone() {
        let (waiting, [key, _]) = (Arc::<Waiting>::default(), keys().await);
        for number in 0..3 {
            let signed = waiting.sign(Arc::clone(&key), payload(number)).await.unwrap();
            assert!(signed.place.is_none() && holds(&signed, &payload(number), key.public()));
        }
    }

    #[tokio::test]
    async fn frames_of_two_trust_domains_are_signed_by_their_own_keys() {
        let (waiting, keys) = (Arc::<Waiting>::default(), keys().await);
        let of = |number: usize| &keys[number % 2];
        let frames = (0..9).map(|number| waiting.sign(Arc::clone(of(number)), payload(number)));
        for (number, signed) in join_all(frames).await.into_iter().enumerate() {
            let signed = signed.unwrap();
            assert!(holds(&signed, &payload(number), of(number).public()), "frame {number}");
            assert!(!holds(&signed, &payload(number), of(number + 1).public()));
        }
    }

    #[tokio::test]
    async fn a_stream_that_goes_while_it_waits_leaves_the_others_theirs() {
        let (waiting, [key, _]) = (Arc::<Waiting>::default(), keys().await);
        let mut first = Box::pin(waiting.sign(Arc::clone(&key), payload(0)));
        assert!(futures_util::poll!(&mut first).is_pending());
        let second = waiting.sign(Arc::clone(&key), payload(1));
        drop(first);
        assert!(holds(&second.await.unwrap(), &payload(1), key.public()));
    }
}
