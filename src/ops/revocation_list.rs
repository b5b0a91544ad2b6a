//! The lists of certificates that are good no longer, for those who know nothing of the feed. [`super::keep_revocation_lists`] makes them.

use std::sync::Arc;
use std::time::Duration;

use taskpass_verifier::keyset::KeyId;

use crate::cert::RevocationList;
use crate::error::{Error, Reason, Result};
use crate::policy::action;
use crate::time::Timestamp;

use super::trail::Trail;
use super::{Broker, Caller};

/// How long a call waits for the first lists of a broker that has just begun.
const FIRST: Duration = Duration::from_secs(3);

/// The lists of one moment.
#[derive(Clone, Debug)]
pub struct RevocationLists {
    /// Of the intermediates that were given up; `None`: the task CA has no root of its own, or its list is over.
    pub(super) root: Option<Arc<RevocationList>>,
    /// The root, whose last list is over and could not be made anew.
    pub(super) root_is_over: Option<KeyId>,
    /// Of the certificates of tasks: one for each intermediate that is published, all with the same content, for no record says which has signed. That which issues comes first.
    pub(super) intermediates: Vec<Arc<RevocationList>>,
}

impl RevocationLists {
    /// The root's, which names intermediates; `None`: the task CA has no root of its own, or [`Self::lacks_root`].
    pub const fn root(&self) -> Option<&Arc<RevocationList>> {
        self.root.as_ref()
    }

    /// Whether the root should have a list that is good at `now`, and has none.
    pub fn lacks_root(&self, now: Timestamp) -> bool {
        self.root_is_over.is_some() || self.root.as_ref().is_some_and(|list| list.next_update <= now)
    }

    /// Those of the intermediates; that which issues comes first.
    pub fn intermediates(&self) -> &[Arc<RevocationList>] {
        &self.intermediates
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.intermediates.iter().chain(&self.root)
    }

    /// The one that this key has signed; with no key that of the intermediate which issues.
    pub fn of(&self, authority: Option<&KeyId>) -> Option<&Arc<RevocationList>> {
        match authority {
            Some(key) => self.all().find(|list| list.authority == *key),
            None => self.intermediates.first(),
        }
    }
}

impl Broker {
    /// The lists that are good at `now`; whether the root's is, too, says [`RevocationLists::lacks_root`]. An error where there are none: not yet, or the store has not answered for so
    /// long that they are over.
    pub fn revocation_lists(&self, now: Timestamp) -> Result<Arc<RevocationLists>> {
        let lists = self.lists.borrow().clone().ok_or_else(|| none("the lists are not complete yet"))?;
        let good = lists.intermediates.iter().all(|list| list.next_update > now)
            && !(lists.intermediates.is_empty() && lists.lacks_root(now));
        good.then_some(lists).ok_or_else(|| none("the lists are over, and could not be made again"))
    }

    /// The list of one authority of the task CA, and the keys of all that have one.
    pub async fn get_revocation_list(
        &self,
        caller: &Caller,
        authority: Option<KeyId>,
        now: Timestamp,
    ) -> Result<(Arc<RevocationList>, Arc<RevocationLists>)> {
        let object = authority.as_ref().map(KeyId::to_string).unwrap_or_default();
        let mut trail = Trail::new("GetRevocationList", object);
        let permitted = self.permit::<action::GetRevocationList>(caller, (), (), &mut trail);
        if permitted.is_ok() {
            let mut lists = self.lists.subscribe();
            let _either = tokio::time::timeout(FIRST, lists.wait_for(Option::is_some)).await;
        }
        let result = permitted.and_then(|_permit| {
            let lists = self.revocation_lists(now)?;
            let is_root = |key: &KeyId| {
                lists.root_is_over == Some(*key) || lists.root.as_ref().is_some_and(|list| list.authority == *key)
            };
            if lists.lacks_root(now) && authority.as_ref().is_some_and(is_root) {
                return Err(none("that of the root is over, and its key could not be opened to make it again"));
            }
            if lists.all().next().is_none() {
                let sentence = "The task CA has no certificate that it could issue under, and so there is no list.";
                return Err(Error::new(Reason::TaskCaUnavailable, sentence));
            }
            let unknown = || {
                let what = "is no key of the task CA that has a list: leave it out, or take one of `authorities` of another answer";
                Error::invalid("authority", what)
            };
            let list = lists.of(authority.as_ref()).ok_or_else(unknown)?;
            Ok((Arc::clone(list), Arc::clone(&lists)))
        });
        self.finish(caller, trail, result, now).await
    }
}

fn none(why: &str) -> Error {
    let sentence = "There is no revocation list that is current. Try again.";
    Error::new(Reason::StoreUnavailable, sentence).with_detail(why)
}
