//! What bundle endpoints that vouch for themselves gave last, kept in the store for brokers that start (ADR 0024).
//!
//! A record begins with its version, 1; then comes what is stored as a protobuf message, and a MAC by the keyring, bound to the trust domain: so whoever can write to the store and no more
//! cannot have a bundle trusted. It hides nothing, for bundles are public, and says nothing about age.

use std::sync::Arc;

use async_trait::async_trait;
use prost::Message;

use crate::identity::{Found, Kept, KeptMark, OutOfReach, Shelf, TrustDomain};
use crate::keys::Keeper;
use crate::keys::store::{Slot, SlotMark};
use crate::store::Store;
use crate::task::store::StoreError;
use crate::time::Timestamp;

/// The only version so far.
const VERSION: u8 = 1;
/// The longest record: a bundle as long as a fetched one may be, and room for the rest.
const MAX_RECORD_BYTES: u32 = 1024 * 1024 + 16 * 1024;

/// The stored form. Fields are only ever added.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(string, tag = "1")]
    url: String,
    #[prost(string, tag = "2")]
    endpoint: String,
    #[prost(bytes = "vec", tag = "3")]
    beside: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    document: Vec<u8>,
    #[prost(uint64, tag = "5")]
    confirmed_ms: u64,
}

/// Keeps them in the store, under the seal of the keyring that is in force.
pub struct KeptBundles {
    store: Arc<dyn Store>,
    keys: Arc<Keeper>,
}

impl KeptBundles {
    /// In this store, under the seals of these keys.
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keeper>) -> Self {
        Self { store, keys }
    }

    fn read(&self, of: &TrustDomain, slot: Slot) -> Result<Kept, String> {
        let record = slot.document.ok_or_else(|| format!("it is longer than {MAX_RECORD_BYTES} bytes"))?;
        let keyring = self.keys.current();
        let forged = |_| {
            metrics::counter!("taskpass_forged_records_total").increment(1);
            "it was not written by a broker of this keyring for this trust domain".to_owned()
        };
        let opened = keyring.record_seal().open_bundle(of, &record).map_err(forged)?;
        let damaged = || "it cannot be read".to_owned();
        let (version, rest) = opened.split_first().ok_or_else(damaged)?;
        if *version != VERSION {
            return Err(format!("it is of version {version}, which this broker does not know"));
        }
        let stored = Stored::decode(rest).map_err(|_| damaged())?;
        Ok(Kept {
            url: stored.url,
            endpoint: stored.endpoint,
            beside: stored.beside.try_into().map_err(|_| damaged())?,
            document: stored.document,
            confirmed: Timestamp::from_millis(stored.confirmed_ms),
        })
    }

    fn write(&self, of: &TrustDomain, kept: &Kept) -> Vec<u8> {
        let stored = Stored {
            url: kept.url.clone(),
            endpoint: kept.endpoint.clone(),
            beside: kept.beside.to_vec(),
            document: kept.document.clone(),
            confirmed_ms: kept.confirmed.as_millis(),
        };
        let mut record = vec![VERSION];
        record.extend(stored.encode_to_vec());
        self.keys.current().record_seal().seal_bundle(of, &record)
    }
}

fn out_of_reach(error: StoreError) -> OutOfReach {
    OutOfReach(error.to_string())
}

#[async_trait]
impl Shelf for KeptBundles {
    async fn look(&self, of: &TrustDomain) -> Result<Option<Found>, OutOfReach> {
        let slot = self.store.kept_bundle(of.as_str(), MAX_RECORD_BYTES).await.map_err(out_of_reach)?;
        Ok(slot.map(|slot| Found { mark: slot.mark, kept: self.read(of, slot) }))
    }

    async fn put(
        &self,
        of: &TrustDomain,
        instead_of: Option<KeptMark>,
        kept: Option<&Kept>,
    ) -> Result<bool, OutOfReach> {
        let (instead_of, record): (Option<SlotMark>, _) = (instead_of, kept.map(|kept| self.write(of, kept)));
        let put = self.store.keep_bundle(of.as_str(), instead_of, record.as_deref());
        put.await.map_err(out_of_reach)
    }

    async fn all(&self) -> Result<Vec<TrustDomain>, OutOfReach> {
        let names = self.store.kept_bundles().await.map_err(out_of_reach)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }
}
