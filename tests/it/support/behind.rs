//! The store, behind the back of the brokers that run on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use taskpass::ids::Partition;
use taskpass::keys::{Keeper, KeyEncryptionKey, KeyPlan, Move, Unaccounted};
use taskpass::revoke::fence::FenceTarget;
use taskpass::revoke::history::History;
use taskpass::store::Store;
use taskpass::store::embedded::{EmbeddedOptions, EmbeddedStore};
use taskpass::store::redis::{RedisDurability, RedisOptions, RedisStore};
use taskpass::time::SystemClock;
use taskpass_verifier::keyset::{Algorithm, KeyId};

use super::broker::Setup;
use super::now;
use super::world::{BROKER_DOMAIN, OTHER_TENANT, TENANT, World};

/// Another broker's hold on the store; a file has to be nobody else's.
pub async fn beside(setup: &Setup) -> Arc<dyn Store> {
    match &setup.redis {
        None => {
            let options = EmbeddedOptions::at(setup.world.path("data/taskpass.redb"));
            Arc::new(EmbeddedStore::open(options, Arc::default()).unwrap())
        }
        Some(redis) => on_redis(&redis.url()).await,
    }
}

/// The same, on a server.
pub async fn on_redis(url: &str) -> Arc<dyn Store> {
    let options = RedisOptions { durability: RedisDurability::Fsync, ..RedisOptions::new(url) };
    let history = Arc::new(History::default());
    Arc::new(RedisStore::connect(options, history, Arc::new(SystemClock)).await.unwrap())
}

/// Another broker's hold on the keyring.
pub async fn keeper(world: &World, store: Arc<dyn Store>) -> Keeper {
    let issuers = [TENANT, OTHER_TENANT].map(|name| (name.parse().unwrap(), Algorithm::Es256));
    let plan = KeyPlan::new(BROKER_DOMAIN.parse().unwrap(), BTreeMap::from(issuers));
    let wrapper = Arc::new(KeyEncryptionKey::from_file(&world.path("kek")).unwrap());
    Keeper::open(store, wrapper, plan, Arc::new(Unaccounted), now()).await.unwrap()
}

/// Gives a key up in the keyring, and dies before the fence.
pub async fn compromise(setup: &Setup, kid: KeyId) {
    let store = beside(setup).await;
    let keeper = keeper(&setup.world, Arc::clone(&store)).await;
    keeper.make(&Move::Compromise(kid), false, now()).await.unwrap().unwrap();
    store.leave().await;
}

/// The document of the keyring, once no broker runs.
pub async fn keyring(setup: &Setup) -> Vec<u8> {
    let store = beside(setup).await;
    let document = store.load().await.unwrap().unwrap().document;
    store.leave().await;
    document
}

/// In how many partitions a key is fenced, once no broker runs.
pub async fn fenced_in(setup: &Setup, kid: KeyId) -> usize {
    let (store, mut count) = (beside(setup).await, 0);
    for partition in Partition::all() {
        let standing = store.blocks(partition, now()).await.unwrap();
        count += usize::from(standing.iter().any(|fence| fence.target == FenceTarget::Key(kid)));
    }
    store.leave().await;
    count
}
