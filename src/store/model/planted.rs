//! Bugs planted on purpose around a sound store, so that it shows whether the stories find them.

use std::sync::Arc;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Generation, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use crate::keys::store::{BundleStore, KeyringStore, Slot, SlotMark, StoredKeyring};
use crate::revoke::feed::{FeedPage, FeedStore, Registration};
use crate::revoke::fence::{FenceIntent, FenceStore, FenceTarget};
use crate::revoke::history::Durability;
use crate::store::contract::{Harness, MINUTE};
use crate::store::{Maintenance, Store};
use crate::task::state::Status;
use crate::task::store::*;
use crate::time::Timestamp;

/// What is wrong with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// An extension does not look whether the task has ended.
    ExtensionIgnoresTheEnd,
    /// An end with other words replaces the first.
    LastEndWins,
    /// A mint does not look at fences.
    MintIgnoresFences,
    /// A mint does not look at fences of keys.
    MintIgnoresFencesOfKeys,
    /// A check does not look at fences of keys.
    CheckIgnoresFencesOfKeys,
    /// A fence of a key refuses under every key.
    FenceOfOneKeyIsOfAll,
    /// A mint does not look at what is above its task.
    MintIgnoresAncestors,
    /// A mint does not look at the version of the facts.
    MintIgnoresTheVersion,
    /// A fence is not raised in one of the partitions.
    FenceMissesAPartition,
    /// A fence that is raised again is a new one.
    FenceRaisedTwiceCutsTwice,
    /// A retry of a begin begins anew.
    KeysAreNotKept,
    /// A revocation is answered and not stored.
    RevocationIsNotStored,
    /// A credential is good for a minute after its expiry.
    ExpiryHasGrace,
    /// A page's last task is left out of it.
    PagesLoseTheirLast,
    /// A task does not say that it has a certificate.
    CertificatesAreNotNoted,
    /// A place is never given back.
    PlacesAreNotGivenBack,
    /// The keyring is written whatever is there.
    LastKeyringWins,
    /// A finished intent stays.
    IntentsStay,
    /// A store that is restored from an older copy goes on as if nothing had been lost.
    RestoreKeepsTheGeneration,
    /// A crash loses what was acknowledged since the last copy.
    CrashLosesWhatWasAcknowledged,
    /// Nothing is done about a declared restore.
    DeclarationIsIgnored,
}

impl Bug {
    pub(crate) const ALL: [Self; 21] = [
        Self::ExtensionIgnoresTheEnd,
        Self::LastEndWins,
        Self::MintIgnoresFences,
        Self::MintIgnoresFencesOfKeys,
        Self::CheckIgnoresFencesOfKeys,
        Self::FenceOfOneKeyIsOfAll,
        Self::MintIgnoresAncestors,
        Self::MintIgnoresTheVersion,
        Self::FenceMissesAPartition,
        Self::FenceRaisedTwiceCutsTwice,
        Self::KeysAreNotKept,
        Self::RevocationIsNotStored,
        Self::ExpiryHasGrace,
        Self::PagesLoseTheirLast,
        Self::CertificatesAreNotNoted,
        Self::PlacesAreNotGivenBack,
        Self::LastKeyringWins,
        Self::IntentsStay,
        Self::RestoreKeepsTheGeneration,
        Self::CrashLosesWhatWasAcknowledged,
        Self::DeclarationIsIgnored,
    ];
}

/// A harness that can let its broker forget what it remembers, so that a loss is not noticed.
pub(crate) trait Forgetful: Harness {
    /// The broker knows nothing of the store any more.
    fn forget_positions(&mut self);
}

/// A harness whose store has a bug.
pub(super) struct Planted<H> {
    pub(super) sound: H,
    pub(super) bug: Bug,
    pub(super) last_copy: Option<usize>,
}

#[async_trait]
impl<H: Forgetful> Harness for Planted<H> {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(PlantedStore { sound: self.sound.store(), bug: self.bug })
    }

    async fn crash(&mut self, now: Timestamp) {
        match self.last_copy {
            Some(copy) if self.bug == Bug::CrashLosesWhatWasAcknowledged => {
                self.sound.restore(copy, now).await;
                self.sound.forget_positions();
            }
            _ => self.sound.crash(now).await,
        }
    }

    async fn copy(&mut self) -> usize {
        let copy = self.sound.copy().await;
        self.last_copy = Some(copy);
        copy
    }

    async fn restore(&mut self, copy: usize, now: Timestamp) {
        if self.bug == Bug::RestoreKeepsTheGeneration {
            self.sound.forget_positions();
        }
        self.sound.restore(copy, now).await;
    }

    async fn flush(&mut self, now: Timestamp) {
        self.sound.flush(now).await;
    }

    async fn damage_task(&mut self, id: TaskId) {
        self.sound.damage_task(id).await;
    }

    async fn damage_credential(&mut self, id: CredentialId) {
        self.sound.damage_credential(id).await;
    }

    fn races(&self) -> usize {
        self.sound.races()
    }
}

/// No story has a fence of it.
const UNFENCED: KeyId = KeyId::from_bytes([255; 32]);

struct PlantedStore {
    sound: Arc<dyn Store>,
    bug: Bug,
}

impl PlantedStore {
    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// Mints for a task that has ended, as if it had not.
    async fn minted_anyway(&self, task: TaskId, now: Timestamp) -> StepResult<RecordOutcome> {
        let view = self.sound.read(task, now).await?;
        let Some(view) = view else { return Ok(RecordOutcome::Unknown) };
        let head = view.record.head;
        let id = CredentialId { task, number: head.credentials };
        Ok(RecordOutcome::Recorded { id, generation: head.generation, began_seq: head.began_seq })
    }
}

#[async_trait]
impl TaskStore for PlantedStore {
    fn generation(&self, partition: Partition) -> Option<Generation> {
        self.sound.generation(partition)
    }

    async fn begin(&self, task: BeginTask, now: Timestamp) -> StepResult<BeginOutcome> {
        let idempotency = task.idempotency.filter(|_| !self.has(Bug::KeysAreNotKept));
        self.sound.begin(BeginTask { idempotency, ..task }, now).await
    }

    async fn replay(
        &self,
        partition: Partition,
        idempotency: Idempotency,
        now: Timestamp,
    ) -> StepResult<Option<BeginOutcome>> {
        self.sound.replay(partition, idempotency, now).await
    }

    async fn read(&self, id: TaskId, now: Timestamp) -> StepResult<Option<TaskView>> {
        let mut view = self.sound.read(id, now).await?;
        if let Some(view) = view.as_mut().filter(|_| self.has(Bug::CertificatesAreNotNoted)) {
            view.record.head.tokens_alone = !view.record.head.tombstone;
        }
        Ok(view)
    }

    async fn extend(&self, id: TaskId, deadline: Timestamp, now: Timestamp) -> StepResult<ExtendOutcome> {
        let outcome = self.sound.extend(id, deadline, now).await?;
        if self.has(Bug::ExtensionIgnoresTheEnd)
            && matches!(outcome, ExtendOutcome::Ended(_))
            && let Some(mut view) = self.sound.read(id, now).await?
        {
            view.record.head.deadline = deadline;
            view.status = Status::Live;
            return Ok(ExtendOutcome::Extended(Box::new(view)));
        }
        Ok(outcome)
    }

    async fn end(&self, end: EndTask, now: Timestamp) -> StepResult<EndOutcome> {
        let outcome = self.sound.end(end.clone(), now).await?;
        match outcome {
            EndOutcome::AlreadyEnded(mut view, at) if self.has(Bug::LastEndWins) => {
                if let Status::Ended(was) = &mut view.status {
                    was.by = end.by;
                }
                Ok(EndOutcome::AlreadyEnded(view, at))
            }
            outcome => Ok(outcome),
        }
    }

    async fn list(&self, query: ListTasks, now: Timestamp) -> StepResult<TaskPage> {
        let mut page = self.sound.list(query, now).await?;
        if self.has(Bug::PagesLoseTheirLast) && page.next.is_some() {
            page.tasks.pop();
        }
        Ok(page)
    }

    async fn lapse(&self, partition: Partition, limit: usize, now: Timestamp) -> StepResult<Lapsed> {
        self.sound.lapse(partition, limit, now).await
    }
}

#[async_trait]
impl CredentialStore for PlantedStore {
    async fn record(&self, mut asked: RecordCredential, now: Timestamp) -> StepResult<RecordOutcome> {
        if self.has(Bug::MintIgnoresTheVersion)
            && let Some(view) = self.sound.read(asked.task, now).await?
        {
            asked.version = view.record.head.version;
        }
        if self.has(Bug::MintIgnoresFencesOfKeys) {
            asked.key = UNFENCED;
        }
        use crate::task::state::EndReason::{AncestorEnded, TrustDomainRevoked, WorkloadRevoked};
        match self.sound.record(asked, now).await? {
            RecordOutcome::Ended(end)
                if (self.has(Bug::MintIgnoresFences)
                    && matches!(end.reason, WorkloadRevoked | TrustDomainRevoked))
                    || (self.has(Bug::MintIgnoresAncestors) && end.reason == AncestorEnded) =>
            {
                self.minted_anyway(asked.task, now).await
            }
            outcome => Ok(outcome),
        }
    }

    async fn check(&self, id: CredentialId, key: KeyId, now: Timestamp) -> StepResult<CheckOutcome> {
        let key = if self.has(Bug::CheckIgnoresFencesOfKeys) { UNFENCED } else { key };
        let late = self.sound.check(id, key, now).await?;
        if self.has(Bug::ExpiryHasGrace) && late == CheckOutcome::Unknown {
            return self.sound.check(id, key, now.saturating_sub(MINUTE)).await;
        }
        if self.has(Bug::FenceOfOneKeyIsOfAll) && matches!(late, CheckOutcome::Active { .. }) {
            let fences = self.sound.blocks(id.task.partition(), now).await?;
            if fences.iter().any(|fence| matches!(fence.target, FenceTarget::Key(_))) {
                return Ok(CheckOutcome::KeyFenced);
            }
        }
        Ok(late)
    }

    async fn revoke(
        &self,
        id: CredentialId,
        now: Timestamp,
    ) -> StepResult<Option<(CredentialRecord, Position)>> {
        if self.has(Bug::RevocationIsNotStored)
            && let CheckOutcome::Active { mut record, .. } = self.sound.check(id, UNFENCED, now).await?
        {
            record.revoked = true;
            // Some position or other, of an entry that is there.
            let nobody = FenceTarget::Workload("spiffe://nobody.example/at/all".to_owned());
            let intent = FenceIntent {
                id: Uuid::from_u128(u128::MAX),
                target: nobody,
                at: now,
                block_until: now,
                forget_at: now.saturating_add(MINUTE),
                by: Default::default(),
            };
            let at = self.sound.raise(id.task.partition(), &intent, now).await?;
            return Ok(Some((record, at)));
        }
        self.sound.revoke(id, now).await
    }

    async fn credentials(
        &self,
        task: TaskId,
        from: u32,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<(Vec<CredentialRecord>, Option<u32>)> {
        self.sound.credentials(task, from, limit, now).await
    }
}

#[async_trait]
impl QuotaStore for PlantedStore {
    async fn reserve(
        &self,
        owner: &str,
        task: TaskId,
        deadline: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> StepResult<Result<(), Vec<TaskId>>> {
        self.sound.reserve(owner, task, deadline, limit, now).await
    }

    async fn release(&self, owner: &str, tasks: &[TaskId]) -> StepResult<()> {
        if self.has(Bug::PlacesAreNotGivenBack) {
            return Ok(());
        }
        self.sound.release(owner, tasks).await
    }
}

#[async_trait]
impl FenceStore for PlantedStore {
    async fn intend(&self, intent: &FenceIntent) -> StepResult<()> {
        self.sound.intend(intent).await
    }

    async fn intents(&self) -> StepResult<Vec<FenceIntent>> {
        self.sound.intents().await
    }

    async fn raise(
        &self,
        partition: Partition,
        intent: &FenceIntent,
        now: Timestamp,
    ) -> StepResult<Position> {
        let mut intent = intent.clone();
        if self.has(Bug::FenceMissesAPartition) && partition.number() == 7 {
            intent.target = FenceTarget::Workload("spiffe://nobody.example/at/all".to_owned());
        }
        if self.has(Bug::FenceRaisedTwiceCutsTwice) {
            let random = crate::ids::random().unwrap_or_default();
            intent.id = uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid();
        }
        self.sound.raise(partition, &intent, now).await
    }

    async fn blocks(&self, partition: Partition, now: Timestamp) -> StepResult<Vec<FenceIntent>> {
        self.sound.blocks(partition, now).await
    }

    async fn finish(&self, id: Uuid) -> StepResult<()> {
        if self.has(Bug::IntentsStay) {
            return Ok(());
        }
        self.sound.finish(id).await
    }
}

#[async_trait]
impl FeedStore for PlantedStore {
    async fn positions(&self, now: Timestamp) -> StepResult<Vec<Option<Position>>> {
        self.sound.positions(now).await
    }

    fn proved_since(&self) -> Option<tokio::time::Instant> {
        self.sound.proved_since()
    }

    fn keeps_mints_since(&self) -> Option<tokio::time::Instant> {
        self.sound.keeps_mints_since()
    }

    async fn hold_against(&self, partition: Partition, known: Position, now: Timestamp) -> StepResult<bool> {
        self.sound.hold_against(partition, known, now).await
    }

    async fn entries(
        &self,
        partition: Partition,
        seq: u64,
        limit: usize,
        now: Timestamp,
    ) -> StepResult<FeedPage> {
        self.sound.entries(partition, seq, limit, now).await
    }

    async fn register(&self, registrations: &[Registration], now: Timestamp) -> StepResult<Vec<Uuid>> {
        self.sound.register(registrations, now).await
    }

    async fn registrations(&self, now: Timestamp) -> StepResult<Vec<Registration>> {
        self.sound.registrations(now).await
    }

    fn nudges(&self) -> watch::Receiver<u64> {
        self.sound.nudges()
    }

    async fn announce(&self, message: &[u8]) -> StepResult<()> {
        self.sound.announce(message).await
    }

    fn announcements(&self) -> broadcast::Receiver<Arc<[u8]>> {
        self.sound.announcements()
    }
}

#[async_trait]
impl KeyringStore for PlantedStore {
    async fn load(&self) -> StepResult<Option<StoredKeyring>> {
        self.sound.load().await
    }

    async fn compare_and_set(&self, expected: Option<u64>, document: &[u8]) -> StepResult<StoredKeyring> {
        let mut expected = expected;
        if self.has(Bug::LastKeyringWins) {
            expected = self.sound.load().await?.map(|stored| stored.version);
        }
        self.sound.compare_and_set(expected, document).await
    }
}

#[async_trait]
impl BundleStore for PlantedStore {
    async fn kept_bundle(&self, of: &str, limit: u32) -> StepResult<Option<Slot>> {
        self.sound.kept_bundle(of, limit).await
    }

    async fn keep_bundle(
        &self,
        of: &str,
        instead_of: Option<SlotMark>,
        document: Option<&[u8]>,
    ) -> StepResult<bool> {
        self.sound.keep_bundle(of, instead_of, document).await
    }

    async fn kept_bundles(&self) -> StepResult<Vec<String>> {
        self.sound.kept_bundles().await
    }
}

#[async_trait]
impl Maintenance for PlantedStore {
    fn durability(&self) -> Durability {
        self.sound.durability()
    }

    async fn probe(&self) -> StepResult<()> {
        self.sound.probe().await
    }

    async fn declare_restored(&self, now: Timestamp) -> StepResult<()> {
        if self.has(Bug::DeclarationIsIgnored) {
            return Ok(());
        }
        self.sound.declare_restored(now).await
    }
}
