//! What the tests stand on: a world of identities, a broker in it, clients of every kind.
#![allow(dead_code, reason = "stories to come use the rest")]

pub mod behind;
pub mod broker;
pub mod ca;
pub mod certificate;
pub mod client;
pub mod dice;
pub mod endpoint;
pub mod follower;
#[cfg(feature = "pkcs11")]
pub mod hsm;
pub mod https;
pub mod load;
pub mod mitm;
pub mod mortal;
pub mod page;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod site;
pub mod spire;
pub mod story;
pub mod workload_api;
pub mod world;

use std::time::{Duration, Instant};

/// Which store a broker of a test keeps its tasks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Embedded,
    Redis,
}

/// Makes two tests of each story (`async fn(Store)`): one on each store.
macro_rules! on_both_stores {
    ($($story:ident),* $(,)?) => {
        $(mod $story {
            use $crate::support::Store;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_the_embedded_store() {
                super::$story(Store::Embedded).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_redis() {
                super::$story(Store::Redis).await;
            }
        })*
    };
}

/// How long anything may take on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until the answer is yes; panics with `what` when patience ends.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let give_up = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The present moment, as the broker counts it.
pub fn now() -> taskpass::time::Timestamp {
    taskpass::time::Clock::now(&taskpass::time::SystemClock)
}
