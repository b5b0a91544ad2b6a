//! The keys, and the moves of them that operators ask for: rotate, activate, retire. What a broker does by itself is in `keep_keyring`.

use std::cmp::Reverse;
use std::sync::Arc;

use taskpass_verifier::keyset::KeyId;

use crate::error::{Error, Reason, Result};
use crate::identity::TrustDomain;
use crate::keys::{KeyState, KeyUse, KeyView, Keyring, Move, Refusal};
use crate::policy::action::{self, Action, KeyFacts, Keys};
use crate::time::Timestamp;

use super::command::{KeyWish, MoveKey};
use super::keep_keyring::{name, object, trace};
use super::keyring::keyring_error;
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// The keys that policy lets the caller see; of one trust domain, if one is named.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        trust_domain: Option<TrustDomain>,
        now: Timestamp,
    ) -> Result<answer::Keys> {
        let mut trail = Trail::new("ListKeys", trust_domain.as_ref().map_or("*", TrustDomain::as_str));
        let result = self.keys_for(caller, trust_domain.as_ref(), now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn keys_for(
        &self,
        caller: &Caller,
        of: Option<&TrustDomain>,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::Keys> {
        let asked = of.map_or(Keys::Any, Keys::Of);
        let _permit = self.permit::<action::ListKeys>(caller, asked, (), trail)?;
        let keyring = self.newest_keyring(now).await?;
        let seen = |key: &KeyView| match of {
            Some(of) => key.trust_domain == *of,
            // A refusal of one is no refusal of the call, and has no place in its line.
            None => {
                let mut aside = Trail::new("ListKeys", "");
                self.permit::<action::ListKeys>(caller, Keys::Of(&key.trust_domain), (), &mut aside).is_ok()
            }
        };
        Ok(shown(&keyring, seen))
    }

    /// Moves a key, or says what the move would do.
    pub async fn move_key(
        &self,
        caller: &Caller,
        command: MoveKey,
        now: Timestamp,
    ) -> Result<answer::KeyMove> {
        let what = match command.wish {
            KeyWish::Rotate { key_use, trust_domain } => {
                Move::Rotate(key_use, trust_domain.unwrap_or_else(|| self.settings.trust_domain.clone()))
            }
            KeyWish::Activate(kid) => Move::Activate(kid),
            KeyWish::Retire(kid) => Move::Retire(kid),
        };
        let mut trail = trail_of(&what, command.dry_run, &command.note);
        let result = self.permitted_move(caller, &what, command.dry_run, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn permitted_move(
        &self,
        caller: &Caller,
        what: &Move,
        dry_run: bool,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::KeyMove> {
        let keyring = self.newest_keyring(now).await?;
        let slot = match what {
            Move::Rotate(key_use, trust_domain) => {
                self.permit_move::<action::RotateKey>(
                    caller,
                    Some((*key_use, trust_domain)),
                    dry_run,
                    trail,
                )?;
                (*key_use, trust_domain.clone())
            }
            Move::Activate(kid) => {
                self.permit_move_of::<action::ActivateKey>(caller, find(&keyring, kid), dry_run, trail)?
            }
            Move::Retire(kid) => {
                self.permit_move_of::<action::RetireKey>(caller, find(&keyring, kid), dry_run, trail)?
            }
            Move::Prepare(..) | Move::Compromise(_) | Move::Request | Move::Install(_) => {
                return Err(Error::internal("a move of another verb"));
            }
        };
        let moved = self.make_move(caller, what, slot, dry_run, now, trail).await?;
        if !dry_run {
            self.announce_keyring(&self.keyring()).await;
        }
        Ok(moved)
    }

    /// The stored keyring, as it is now.
    pub(super) async fn newest_keyring(&self, now: Timestamp) -> Result<Arc<Keyring>> {
        self.keys.look(now).await.map_err(keyring_error)?;
        if !self.keys.is_confirmed() {
            return Err(Error::store("the keyring in force is not the one in the store"));
        }
        Ok(self.keyring())
    }

    /// The same for a key that may not be there; where it is not, whoever may move any key learns so, and nobody else.
    pub(super) fn permit_move_of<A>(
        &self,
        caller: &Caller,
        key: Result<KeyView>,
        dry_run: bool,
        trail: &mut Trail,
    ) -> Result<(KeyUse, TrustDomain)>
    where
        A: for<'a> Action<Resource<'a> = Keys<'a>, Context<'a> = KeyFacts>,
    {
        let of = key.as_ref().ok().map(|key| (key.key_use, &key.trust_domain));
        self.permit_move::<A>(caller, of, dry_run, trail)?;
        key.map(|key| (key.key_use, key.trust_domain))
    }

    pub(super) fn permit_move<A>(
        &self,
        caller: &Caller,
        of: Option<(KeyUse, &TrustDomain)>,
        dry_run: bool,
        trail: &mut Trail,
    ) -> Result<()>
    where
        A: for<'a> Action<Resource<'a> = Keys<'a>, Context<'a> = KeyFacts>,
    {
        if let Some((key_use, trust_domain)) = of {
            trail.fact("use", key_use.as_str());
            trail.fact("trust_domain", trust_domain);
        }
        let keys = of.map_or(Keys::Any, |(_, trust_domain)| Keys::Of(trust_domain));
        let facts = KeyFacts { key_use: of.map(|(key_use, _)| key_use.as_str()), dry_run };
        self.permit::<A>(caller, keys, facts, trail).map(drop)
    }

    /// Makes a move that is permitted, intent first. To be announced when all of it is done.
    pub(super) async fn make_move(
        &self,
        caller: &Caller,
        what: &Move,
        slot: (KeyUse, TrustDomain),
        dry_run: bool,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<answer::KeyMove> {
        if !dry_run {
            self.intend(Some(caller), trail, now).await?;
        }
        let made = self.keys.make(what, dry_run, now).await.map_err(keyring_error)?;
        let moved = made.map_err(|refusal| refused(&refusal))?;
        trace(trail, &moved);
        let of_slot = |key: &KeyView| (key.key_use, &key.trust_domain) == (slot.0, &slot.1);
        Ok(answer::KeyMove {
            dry_run,
            after: shown(&moved.keyring, of_slot),
            steps: moved.steps,
            durability: self.store.durability(),
        })
    }
}

/// The beginning of a move's audit line.
pub(super) fn trail_of(what: &Move, dry_run: bool, note: &str) -> Trail {
    let mut trail = Trail::new(name(what), object(what));
    if dry_run {
        trail.fact("dry_run", true);
    }
    if !note.is_empty() {
        trail.fact("note", note);
    }
    trail
}

/// The key of that name.
pub(super) fn find(keyring: &Keyring, kid: &KeyId) -> Result<KeyView> {
    keyring.keys().find(|key| key.kid == *kid).ok_or_else(|| refused(&Refusal::UnknownKey(*kid)))
}

fn shown(keyring: &Keyring, seen: impl Fn(&KeyView) -> bool) -> answer::Keys {
    let mut keys: Vec<_> = keyring.keys().filter(|key| seen(key)).collect();
    let order = |key: &KeyView| {
        let signs_next = (key.state == KeyState::Prepared).then_some(key.waits_until);
        (key.trust_domain.clone(), key.key_use, key.state, signs_next, Reverse(key.since), key.kid)
    };
    keys.sort_by_cached_key(order);
    answer::Keys { keys, sequence: keyring.sequence() }
}

/// What an operator reads of a move that is not made.
pub(super) fn refused(refusal: &Refusal) -> Error {
    let reason = match refusal {
        Refusal::UnknownKey(_) | Refusal::NoKey { .. } | Refusal::NotInstalled => Reason::KeyNotFound,
        Refusal::NoUpstream => Reason::NoUpstream,
        Refusal::Misfit(_) => Reason::TaskCaMisfit,
        Refusal::Stays(_) => Reason::KeyWrongUse,
        Refusal::WrongState { .. } | Refusal::LastStandby(_) => Reason::KeyWrongState,
        Refusal::NotAged { .. }
        | Refusal::LastAged { .. }
        | Refusal::StillNeeded { .. }
        | Refusal::TooMany { .. } => Reason::KeyWaits,
    };
    Error::new(reason, refusal.to_string())
}
