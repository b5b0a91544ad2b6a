//! A key is given up: it leaves the keyring's published keys, another one signs, and a fence in every partition refuses what is under it, before success is said.
//!
//! The keyring moves first: from then on nobody signs with the key who looks, and whoever dies in between leaves a keyring in which every broker finds the fence that is
//! still to be raised (`keep_keyring`).

use crate::error::Result;
use crate::feed::Applied;
use crate::keys::Move;
use crate::policy::action;
use crate::task::state::Actor;
use crate::time::Timestamp;

use super::command::CompromiseKey;
use super::move_key::{find, trail_of};
use super::propagation::Spread;
use super::trail::Trail;
use super::{Broker, Caller, answer};

impl Broker {
    /// Gives a key up, or says what that would do. The receipt says how far its fence has come; there is none for a dry run.
    pub async fn compromise_key(
        &self,
        caller: &Caller,
        command: CompromiseKey,
        now: Timestamp,
    ) -> Result<(answer::KeyMove, Option<(answer::FenceReceipt, Applied)>)> {
        let wait = command.wish.wait;
        let mut trail = trail_of(&Move::Compromise(command.kid), command.dry_run, &command.wish.note);
        let result = self.give_up(caller, command, now, &mut trail).await;
        let (moved, fenced) = self.finish(caller, trail, result, now).await?;
        let Some((receipt, spread)) = fenced else { return Ok((moved, None)) };
        let applied = self.propagated(&spread, wait).await;
        Ok((moved, Some((receipt, applied))))
    }

    async fn give_up(
        &self,
        caller: &Caller,
        command: CompromiseKey,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::KeyMove, Option<(answer::FenceReceipt, Spread)>)> {
        let keyring = self.newest_keyring(now).await?;
        let key = find(&keyring, &command.kid);
        if let Ok(key) = &key {
            trail.fact("from", key.state.as_str());
        }
        let slot = self.permit_move_of::<action::CompromiseKey>(caller, key, command.dry_run, trail)?;
        let what = Move::Compromise(command.kid);
        let moved = self.make_move(caller, &what, slot, command.dry_run, now, trail).await?;
        if command.dry_run {
            return Ok((moved, None));
        }
        let key = find(&self.keyring(), &command.kid)?;
        let by = Actor { spiffe_id: caller.spiffe_id().to_string(), note: command.wish.note };
        let fenced = self.fence_key(&key, by, now).await;
        // Whoever hears of it looks for a fence that is missing, and would raise this one once more.
        self.announce_keyring(&self.keyring()).await;
        let fenced = fenced?;
        trail.fact("fence", fenced.0.id);
        Ok((moved, Some(fenced)))
    }
}
