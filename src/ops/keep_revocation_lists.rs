//! Revocation lists, kept: what has ended is found in the history of the store, and is on a list about a second later.
//!
//! No end waits for it, and it waits for none: it reads what has happened since, at most once a second however much that was, and signs beside everything else. What one of
//! its looks has not found makes no list younger: without the store the lists stand, until they are over.
//!
//! The intermediates' keys are in memory for as long as the keyring is the same; the root's is opened for each of its lists. Where it cannot be, for the key-encryption key lies in
//! hardware that is not at hand, its last list stands until it is over, and the others go on.
//!
//! The history names the task that ended. Its own certificates are read at once. Those of tasks below it, and of whatever a fence or a new generation has ended, are found by walking
//! through the tasks of the partition, [`gather::AT_ONCE`] a round: so they come later where there are many tasks.

mod gather;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cert::{RevocationList, Revoked, Why, sign_list};
use crate::error::{Error, Result};
use crate::keys::publish::replace;
use crate::keys::{Keyring, ListSigner};
use crate::time::{Clock, Timestamp};

use super::Broker;
use super::keyring::keyring_error;
use super::revocation_list::RevocationLists;

use gather::Gathered;

/// The shortest time between two rounds.
const PACE: Duration = Duration::from_secs(1);
/// The same until the first list is complete.
const FIRST_PACE: Duration = Duration::from_millis(10);
/// Signing takes no more than this part of the time: a list that takes long to sign is signed less often.
const PART_OF_TIME: u32 = 10;
/// The longest time between two rounds.
const IDLE: Duration = Duration::from_secs(5);
/// The least of the times that a list is good for.
const LEAST_VALIDITY: Duration = Duration::from_secs(10);

/// Keeps them for one broker.
#[derive(Debug)]
pub struct KeepRevocationLists {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    export: Option<PathBuf>,
    gathered: Gathered,
    signers: Option<Signers>,
    signed: Option<Signed>,
    /// What was said of the root's list that is not made anew.
    said_of_root: String,
}

/// Who signs, by one view of the keyring.
#[derive(Debug)]
struct Signers {
    keyring: Arc<Keyring>,
    intermediates: Arc<Vec<ListSigner>>,
    root: Option<RootList>,
}

/// The root's list, which changes with the keyring alone: its key is opened no more often than that, and than the list has to be renewed, and is not kept open.
#[derive(Clone, Debug)]
struct RootList {
    at: Timestamp,
    list: Arc<RevocationList>,
}

/// What was signed last.
#[derive(Debug)]
struct Signed {
    at: Timestamp,
    number: u64,
    keyring: Arc<Keyring>,
    took: Duration,
}

impl KeepRevocationLists {
    /// For a broker. `export`: where the lists are written, too.
    pub fn new(broker: Arc<Broker>, clock: Arc<dyn Clock>, export: Option<PathBuf>) -> Self {
        let (gathered, said_of_root) = (Gathered::default(), String::new());
        Self { broker, clock, export, gathered, signers: None, signed: None, said_of_root }
    }

    /// Keeps them until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut nudges = self.broker.store.nudges();
        let mut said = String::new();
        loop {
            let began = Instant::now();
            nudges.mark_unchanged();
            let Some(round) = stop.run_until_cancelled(self.round()).await else { return };
            let round_went_well = round.is_ok();
            match round {
                Ok(()) => said.clear(),
                Err(error) => {
                    failed();
                    if error.log_line() != said {
                        said = error.log_line();
                        tracing::warn!(error = said, "the revocation lists are not made anew");
                    }
                }
            }
            self.show();
            let took = self.signed.as_ref().map_or(Duration::ZERO, |signed| signed.took);
            // Until there is a list at all, whoever wants one waits.
            let pace = if self.signed.is_none() && round_went_well { FIRST_PACE } else { PACE };
            let pace = pace.max(took.saturating_mul(PART_OF_TIME));
            let waited = async {
                tokio::time::sleep_until(began + pace).await;
                if self.gathered.is_complete() {
                    let idle = IDLE.min(self.renewal());
                    let _either = tokio::time::timeout(idle, nudges.changed()).await;
                }
            };
            if stop.run_until_cancelled(waited).await.is_none() {
                return;
            }
        }
    }

    /// Finds what has ended, and signs if that is due.
    async fn round(&mut self) -> Result<()> {
        let now = self.clock.now();
        let changed = self.gathered.look(self.broker.store.as_ref(), now).await?;
        if !self.broker.keys.is_confirmed() {
            // It may lack an intermediate that another broker has given up.
            return Err(Error::store("the keyring in force is not known to be the one in the store"));
        }
        let keyring = self.broker.keyring();
        let due = self.signed.as_ref().is_none_or(|signed| {
            let renewed = signed.at.saturating_add(self.renewal());
            changed || !Arc::ptr_eq(&signed.keyring, &keyring) || now >= renewed || now < signed.at
        });
        // The first one has to be complete.
        if due && (self.signed.is_some() || self.gathered.is_complete()) {
            self.sign(Arc::clone(&keyring), now).await?;
            self.gathered.is_told();
        }
        self.renew_root(&keyring, now).await;
        Ok(())
    }

    async fn sign(&mut self, keyring: Arc<Keyring>, now: Timestamp) -> Result<()> {
        let began = Instant::now();
        let last = self.signed.as_ref().map_or(0, |signed| signed.number);
        let (number, validity) = (now.as_millis().max(last.saturating_add(1)), self.validity());
        let signers = match self.signers.take_if(|signers| Arc::ptr_eq(&signers.keyring, &keyring)) {
            Some(signers) => signers,
            None => self.open(&keyring, number, now).await?,
        };
        let intermediates = Arc::clone(&signers.intermediates);
        self.signers = Some(signers);
        let revoked = self.gathered.revoked(now);
        let issues = keyring.task_ca().map(|ca| ca.key_id());
        let signing = tokio::task::spawn_blocking(move || {
            let of = |signer: &ListSigner| sign_list(signer, &revoked, number, now, validity).map(Arc::new);
            let mut lists = intermediates.iter().map(of).collect::<Result<Vec<_>>>()?;
            lists.sort_by_key(|list| Some(list.authority) != issues);
            Ok::<_, Error>(lists)
        });
        let lists = signing.await.map_err(|_| Error::internal("signing a revocation list was cut off"))??;
        self.signed = Some(Signed { at: now, number, keyring, took: began.elapsed() });
        self.publish(lists, now).await;
        Ok(())
    }

    /// Opens those that sign, by another view of the keyring, and signs the first list of its root.
    async fn open(&self, keyring: &Arc<Keyring>, number: u64, now: Timestamp) -> Result<Signers> {
        let (intermediates, root) = self.broker.keys.list_signers(keyring).await.map_err(keyring_error)?;
        let root = match root {
            Some(signer) => Some(self.sign_root(&signer, keyring, number, now)?),
            None => None,
        };
        Ok(Signers { keyring: Arc::clone(keyring), intermediates: Arc::new(intermediates), root })
    }

    fn sign_root(
        &self,
        signer: &ListSigner,
        keyring: &Keyring,
        number: u64,
        now: Timestamp,
    ) -> Result<RootList> {
        let list = sign_list(signer, &given_up(keyring, now)?, number, now, self.validity())?;
        Ok(RootList { at: now, list: Arc::new(list) })
    }

    /// Makes the root's list anew, if that is due. What does not go well leaves the last one, until it is over.
    async fn renew_root(&mut self, keyring: &Arc<Keyring>, now: Timestamp) {
        let signers = self.signers.as_ref().filter(|signers| Arc::ptr_eq(&signers.keyring, keyring));
        let Some(last) = signers.and_then(|signers| signers.root.clone()) else { return };
        if now >= last.at && now < last.at.saturating_add(self.renewal()) {
            return;
        }
        let number = now.as_millis().max(last.list.number.saturating_add(1));
        let renewed = match self.broker.keys.root_list_signer(keyring).await.map_err(keyring_error) {
            Ok(Some(signer)) => self.sign_root(&signer, keyring, number, now),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let is_renewed = renewed.is_ok();
        match renewed {
            Ok(renewed) => {
                self.said_of_root.clear();
                self.signers.iter_mut().for_each(|signers| signers.root = Some(renewed.clone()));
            }
            Err(error) => {
                failed();
                if error.log_line() != self.said_of_root {
                    self.said_of_root = error.log_line();
                    tracing::warn!(
                        error = self.said_of_root,
                        until = %last.list.next_update,
                        "the root's revocation list is not made anew: the last one stands until it is over; those of the intermediates go on"
                    );
                }
            }
        }
        let is_over = |list: &Arc<RevocationList>| list.next_update <= now;
        let changes = |lists: &Arc<RevocationLists>| is_renewed || lists.root.as_ref().is_some_and(is_over);
        let lists = self.broker.lists.borrow().clone();
        if let Some(lists) = lists.filter(|lists| changes(lists)) {
            self.publish(lists.intermediates.clone(), now).await;
        }
    }

    async fn publish(&self, intermediates: Vec<Arc<RevocationList>>, now: Timestamp) {
        let root = self.signers.as_ref().and_then(|signers| signers.root.as_ref()).map(|root| &root.list);
        let is_good = root.is_none_or(|list| list.next_update > now);
        let lists = RevocationLists {
            root: root.filter(|_| is_good).map(Arc::clone),
            root_is_over: root.filter(|_| !is_good).map(|list| list.authority),
            intermediates,
        };
        self.broker.lists.send_replace(Some(Arc::new(lists.clone())));
        self.write(lists).await;
    }

    /// Files that cannot be written are tried again with the next lists.
    async fn write(&self, lists: RevocationLists) {
        let Some(dir) = self.export.clone() else { return };
        let writing = tokio::task::spawn_blocking(move || {
            let write = |name: String, list: &RevocationList| replace(&dir, &name, &list.der);
            lists.root.iter().try_for_each(|root| write("task-ca.root.crl".to_owned(), root))?;
            let mut each = lists.intermediates.iter();
            each.try_for_each(|list| write(format!("task-ca.{}.crl", list.authority), list))
        });
        let written: std::io::Result<std::io::Result<()>> = writing.await.map_err(std::io::Error::other);
        if let Err(error) = written.flatten() {
            tracing::error!(%error, "the revocation lists are not written");
        }
    }

    /// How long a list is good for: as long as those who read what is published go without looking.
    fn validity(&self) -> Duration {
        self.broker.refresh_hint().max(LEAST_VALIDITY)
    }

    /// After how long one is signed anew though nothing has ended.
    fn renewal(&self) -> Duration {
        self.validity() / 3
    }

    fn show(&self) {
        let left = match self.broker.lists.borrow().as_ref() {
            None => Duration::ZERO,
            Some(lists) if lists.root_is_over.is_some() => Duration::ZERO,
            // Where nothing is that could have one, nothing is missing.
            Some(lists) => lists
                .all()
                .map(|list| list.next_update)
                .min()
                .map_or_else(|| self.validity(), |until| until.since(self.clock.now())),
        };
        metrics::gauge!("taskpass_revocation_list_remaining_seconds").set(left.as_secs_f64());
        metrics::gauge!("taskpass_revocation_list_entries").set(self.gathered.len() as f64);
    }
}

fn failed() {
    metrics::counter!("taskpass_sweep_failures_total", "step" => "revocation_lists").increment(1);
}

/// The intermediates that others may have the keys of, until their certificates end.
fn given_up(keyring: &Keyring, now: Timestamp) -> Result<Vec<Revoked>> {
    let all = keyring.given_up_intermediates().map_err(keyring_error)?;
    let alive = all.into_iter().filter(|one| one.not_after >= now.floor_to_second());
    Ok(alive.map(|one| Revoked { serial: one.serial, at: one.since, why: Why::KeyCompromised }).collect())
}
