//! What every store promises, as sentences that can fail. Each case runs on every store.
//!
//! Time is virtual: it starts an hour ahead of the real clock and only moves forward, so that a store that also forgets by its own
//! clock never forgets too early. Nothing is shorter than a minute. A store under test must not mind how far ahead that is.
//!
//! What the traits' documents do not say in so many words, these cases settle:
//! - a writing step that refuses leaves its `now` in the partition all the same, errors aside;
//! - a moment is reached when `now` is equal to it: what ends, expires or is blocked until then no longer is so;
//! - a fence's `forget_at` grows with the deadlines of its partition when it is raised: even one that is raised late is not
//!   forgotten while a task that is older than its cut could live;
//! - a keyring that was expected and is not there is `Damaged`, and nothing is written.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::keyset::KeyId;

use super::Store;
use crate::ids::new_task_id;
use crate::revoke::fence::{FenceIntent, FenceTarget};
use crate::task::state::{Actor, End, EndReason, Status};
use crate::task::store::*;
use crate::task::{SealedFacts, TaskRecord};
use crate::time::{Clock, SystemClock, Timestamp};

pub(crate) mod bundles;
pub(crate) mod credentials;
pub(crate) mod ends;
pub(crate) mod feed;
pub(crate) mod fenced_keys;
pub(crate) mod fences;
pub(crate) mod history;
pub(crate) mod keyring;
pub(crate) mod lapse;
pub(crate) mod quota;
pub(crate) mod races;
pub(crate) mod tasks;

/// How a store under test is handled. One harness is one store with its own content, and one broker that uses it.
#[async_trait]
pub(crate) trait Harness: Send + Sync {
    /// The store as the broker holds it now. Ask anew after each of the steps below.
    fn store(&self) -> Arc<dyn Store>;

    /// The broker's process dies in the middle of whatever it does and is back; what it remembers of positions is kept, as by a
    /// broker that only lost its connection.
    async fn crash(&mut self, now: Timestamp);

    /// Takes a copy of all that is stored, and returns its number.
    async fn copy(&mut self) -> usize;

    /// All that is stored becomes that copy, behind the broker's back; the broker, which remembers, reconnects.
    async fn restore(&mut self, copy: usize, now: Timestamp);

    /// All that is stored is lost; the broker, which remembers, reconnects.
    async fn flush(&mut self, now: Timestamp);

    /// Another broker's view of the same store, which remembers nothing yet; the same one where there can be but one broker.
    async fn another(&self) -> Arc<dyn Store> {
        self.store()
    }

    /// The stored record of a task becomes something that nobody can read, behind the broker's back.
    async fn damage_task(&mut self, id: TaskId);

    /// The same of a credential.
    async fn damage_credential(&mut self, id: CredentialId);

    /// How often the cases that race something do so.
    fn races(&self) -> usize;
}

/// One test per case: `contract_suite!(async { MyHarness::new().await });` in a test module.
macro_rules! contract_suite {
    ($harness:expr) => {
        $crate::store::contract::contract_suite! { @ $harness;
            tasks:
                a_begun_task_reads_as_it_was_stored
                a_begin_sent_again_is_the_same_task
                a_replay_finds_its_task
                another_body_under_the_same_key_is_told
                an_id_that_stands_for_another_task_is_refused
                begin_under_a_dead_parent_fails
                begin_under_an_unknown_parent_fails
                an_unknown_task_is_unknown_to_every_step
                a_deadline_moves_later_and_the_version_grows
                asking_for_the_standing_deadline_changes_nothing
                a_deadline_never_moves_earlier
                a_child_is_not_extended_beyond_its_parent
                an_extension_never_revives
                pages_show_each_task_once_and_in_order
                a_page_of_long_tasks_ends_early_and_none_is_left_out
                a_list_can_be_of_one_owner
                a_list_can_be_of_one_partition
                a_list_of_the_living_leaves_out_the_dead
                a_begin_tells_how_the_task_stands_by_the_partitions_time
                time_never_runs_back
                a_damaged_task_hides_no_other_from_a_list
            ;
            ends:
                a25_the_first_end_stays
                a25_completing_after_the_deadline_changes_nothing
                an_end_covers_all_below_it
                an_end_leaves_siblings_and_parents_alone
                an_end_is_one_entry_whatever_it_covers
                entries_count_up_and_each_has_its_own_digest
                the_own_end_is_told_before_the_others
                a_task_id_the_store_has_lost_can_be_buried
                what_was_recorded_under_a_buried_id_is_unknown
                a_buried_task_frees_its_key
                a_known_task_is_not_buried
                an_ended_task_is_forgotten_after_its_retention
                a_child_whose_parent_is_forgotten_has_ended
                an_end_is_there_after_a_crash
            ;
            credentials:
                a_recorded_credential_is_active
                a_mint_after_the_end_is_refused
                a_mint_on_an_older_version_is_stale
                a_mint_beyond_the_limit_is_refused
                a_mint_beyond_the_deadline_is_refused
                credential_numbers_are_unique_under_concurrency
                what_was_never_recorded_is_unknown
                a_credential_past_its_expiry_is_unknown
                an_end_kills_every_credential
                one_credential_is_revoked_and_the_others_live
                a_revocation_sent_again_is_no_second_entry
                unexpired_credentials_are_listed_in_order
                a_damaged_credential_hides_no_other_from_a_list
                a_long_task_goes_on_minting_after_its_oldest_are_gone
                the_task_counts_its_credentials_and_knows_the_latest_expiry
                the_task_says_whether_a_certificate_was_ever_recorded
                a_lapse_leaves_what_a_task_says_of_certificates
                credentials_are_there_after_a_crash
            ;
            fences:
                a_fence_ends_every_task_of_its_workload_and_no_other
                a_fence_on_a_trust_domain_ends_its_tasks
                a_fence_covers_what_others_began_below
                nothing_begun_or_minted_slips_behind_a_fence
                a_fence_raised_twice_kills_nothing_newer
                a_later_fence_cuts_again
                a_fence_cuts_whatever_its_clock_says
                new_tasks_are_refused_until_the_block_is_over
                a_block_only_grows
                the_blocks_that_stand_are_told
                a_lost_block_that_is_raised_again_refuses_and_cuts
                intents_stay_until_they_are_finished
                a_broker_that_died_in_the_middle_is_finished_by_another
                a_fence_raised_late_is_kept_while_something_older_could_live
                a_fence_stands_until_the_very_moment_at_which_it_is_forgotten
                a_workload_named_like_a_prefix_is_not_fenced
            ;
            fenced_keys:
                nothing_is_recorded_under_a_fenced_key_and_all_under_others
                what_is_signed_under_a_fenced_key_is_dead_whenever_its_task_began
                a_fence_of_a_key_ends_no_task_and_blocks_no_begin
                the_key_is_that_of_what_is_presented_whatever_was_recorded
                the_end_of_a_task_or_credential_is_told_before_that_of_its_key
                nothing_recorded_beside_the_fence_of_its_key_is_good_after_it
                a_fence_of_a_key_stands_until_it_is_forgotten_and_no_longer
                a_fence_of_a_key_is_there_after_a_crash_and_in_a_new_generation
                a_fence_of_a_key_is_told_in_the_history
                a_lost_fence_of_a_key_that_is_raised_again_refuses
            ;
            lapse:
                a_lapse_writes_what_is_due_and_nothing_else
                a_lapse_stops_at_its_limit_and_says_so
                a_lapse_changes_no_verdict
                the_next_due_moment_is_never_too_late
                what_lapsed_is_forgotten_after_its_retention
                a_forgotten_key_is_free_again
                a_lapse_of_nothing_is_nothing
            ;
            quota:
                no_more_places_than_the_limit
                taking_a_place_moves_no_clock
                a_place_given_back_can_be_taken
                a_place_goes_by_itself_at_its_deadline
                a_task_that_has_a_place_moves_its_deadline
                places_of_others_do_not_count
                no_race_takes_one_place_too_many
            ;
            keyring:
                nothing_is_stored_at_first
                compare_and_set_writes_only_over_what_was_expected
                compare_and_set_has_one_winner
                the_keyring_is_there_after_a_crash
                a_keyring_that_is_gone_is_not_written_over
            ;
            bundles:
                a_slot_is_written_only_over_what_was_expected_and_emptied_likewise
                one_that_is_too_long_is_told_of_and_can_be_replaced
                a_slot_has_one_winner_and_is_there_after_a_crash
            ;
            history:
                a_crash_loses_nothing
                a_flush_revives_nothing_and_begins_a_new_generation
                restoring_a_copy_that_lost_an_end_ends_the_partition
                restoring_a_copy_that_lost_a_revocation_ends_the_partition
                restoring_a_copy_that_lost_a_fence_revives_nothing
                restoring_a_copy_that_lost_no_end_disturbs_nothing
                a_fork_of_equal_length_is_noticed
                declaring_a_restore_ends_every_task_and_frees_their_keys
                a_new_generation_is_greater_than_any_before
                intents_do_not_come_back_as_done
            ;
            feed:
                entries_come_in_order_and_whole_over_pages
                entries_say_what_happened_and_until_when_it_matters
                entries_after_the_last_are_none
                what_is_forgotten_is_left_out
                a_new_generation_shows_in_entries_and_positions
                every_partition_has_a_position_from_the_first_look_on
                a_look_covers_every_end_that_was_acknowledged
                a_look_is_as_good_after_a_crash
                a_look_after_an_older_copy_never_shows_a_lower_position
                a_look_after_a_flush_never_shows_a_lower_position
                a_registration_is_there_until_its_time_is_over
                a_registration_is_only_moved_later
                registrations_are_there_after_a_crash
                no_more_registrations_than_the_limit
                an_end_is_followed_by_a_nudge
                a_fence_and_a_revocation_are_followed_by_a_nudge
                what_is_announced_reaches_every_broker
                an_announcement_that_is_too_long_is_refused
            ;
            races:
                a23_no_credential_is_accepted_after_the_end_was_acknowledged
                a23_no_child_lives_after_the_end_of_its_parent_was_acknowledged
                racing_begins_with_one_key_begin_one_task
                racing_ends_have_one_winner
                racing_extensions_and_ends_leave_the_end
            ;
        }
    };
    (@ $harness:expr; $($room:ident: $($case:ident)* ;)*) => {
        $(mod $room {
            #[allow(unused_imports, reason = "the harness may be named by the enclosing module's imports")]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let mut harness = $harness.await;
                $crate::store::contract::$room::$case(&mut harness).await;
            })*
        })*
    };
}
pub(crate) use contract_suite;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) const AGENT: &str = "spiffe://one.example/agent/a";
pub(crate) const OTHER: &str = "spiffe://one.example/agent/b";
pub(crate) const STRANGER: &str = "spiffe://two.example/agent/a";
/// Under which cases mint.
pub(crate) const KEY: KeyId = KeyId::from_bytes([1; 32]);
const OPERATOR: &str = "spiffe://one.example/operator";

/// A task as a case knows it.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    pub(crate) id: TaskId,
    pub(crate) record: TaskRecord,
}

impl Begun {
    /// The lineage of a task below it.
    pub(crate) fn lineage_below(&self) -> Vec<TaskId> {
        self.record.lineage.iter().copied().chain([self.id]).collect()
    }
}

/// A case's view of the harness: a store and a time that only moves forward.
pub(crate) struct World<'h> {
    pub(crate) h: &'h mut dyn Harness,
    pub(crate) now: Timestamp,
    fresh: u32,
}

pub(crate) fn actor(note: &str) -> Actor {
    Actor { spiffe_id: OPERATOR.to_owned(), note: note.to_owned() }
}

/// An hour ahead of the real clock, on a whole second.
pub(crate) fn start() -> Timestamp {
    SystemClock.now().floor_to_second().saturating_add(HOUR)
}

impl<'h> World<'h> {
    pub(crate) fn new(h: &'h mut dyn Harness) -> Self {
        Self { h, now: start(), fresh: 0 }
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.h.store()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }

    /// Never the same twice in a case.
    pub(crate) fn number(&mut self) -> u32 {
        self.fresh += 1;
        self.fresh
    }

    /// A root task in partition 7, for an hour, readable for a day.
    pub(crate) fn draft(&mut self, owner: &str) -> BeginTask {
        self.draft_in(owner, Partition::from_low_bits(7))
    }

    pub(crate) fn draft_in(&mut self, owner: &str, partition: Partition) -> BeginTask {
        let number = self.number();
        BeginTask {
            id: new_task_id(self.now, partition).unwrap(),
            lineage: Vec::new(),
            owner: owner.to_owned(),
            facts: SealedFacts(format!("sealed facts {number}").into_bytes()),
            deadline: self.now.saturating_add(HOUR),
            retention: DAY,
            idempotency: None,
        }
    }

    pub(crate) fn keyed(&mut self, owner: &str, key: u8, request: u8) -> BeginTask {
        let idempotency = Some(Idempotency { key: [key; 32], request: [request; 32] });
        BeginTask { idempotency, ..self.draft(owner) }
    }

    pub(crate) fn draft_below(&mut self, parent: &Begun, owner: &str) -> BeginTask {
        let draft = self.draft_in(owner, parent.id.partition());
        BeginTask { lineage: parent.lineage_below(), deadline: parent.record.head.deadline, ..draft }
    }

    pub(crate) async fn begin(&self, draft: &BeginTask) -> BeginOutcome {
        self.store().begin(draft.clone(), self.now).await.unwrap()
    }

    pub(crate) async fn begun_as(&self, draft: &BeginTask) -> Begun {
        match self.begin(draft).await {
            BeginOutcome::Begun(view) => Begun { id: draft.id, record: view.record },
            other => panic!("expected a task, got {other:?}"),
        }
    }

    pub(crate) async fn begun(&mut self, owner: &str) -> Begun {
        let draft = self.draft(owner);
        self.begun_as(&draft).await
    }

    pub(crate) async fn begun_below(&mut self, parent: &Begun, owner: &str) -> Begun {
        let draft = self.draft_below(parent, owner);
        self.begun_as(&draft).await
    }

    pub(crate) fn request(&self, task: &Begun) -> RecordCredential {
        RecordCredential {
            task: task.id,
            version: task.record.head.version,
            kind: CredentialKind::Token,
            key: KEY,
            grant: 3,
            issued_at: self.now.floor_to_second(),
            expires_at: self
                .now
                .floor_to_second()
                .saturating_add(2 * MINUTE)
                .min(task.record.head.deadline.floor_to_second()),
            limit: 1_000_000,
        }
    }

    pub(crate) async fn mint(&self, task: &Begun) -> RecordOutcome {
        self.store().record(self.request(task), self.now).await.unwrap()
    }

    pub(crate) async fn minted(&self, task: &Begun) -> CredentialId {
        match self.mint(task).await {
            RecordOutcome::Recorded { id, .. } => id,
            other => panic!("expected a record, got {other:?}"),
        }
    }

    pub(crate) async fn check(&self, id: CredentialId) -> CheckOutcome {
        self.store().check(id, KEY, self.now).await.unwrap()
    }

    pub(crate) async fn is_active(&self, id: CredentialId) -> bool {
        matches!(self.check(id).await, CheckOutcome::Active { .. })
    }

    pub(crate) async fn read(&self, id: TaskId) -> Option<TaskView> {
        self.store().read(id, self.now).await.unwrap()
    }

    pub(crate) async fn status(&self, task: &Begun) -> Status {
        self.read(task.id).await.expect("the task is readable").status
    }

    pub(crate) async fn end_of(&self, task: &Begun) -> End {
        match self.status(task).await {
            Status::Ended(end) => end,
            Status::Live => panic!("{} lives", task.id),
        }
    }

    pub(crate) fn ending(&self, id: TaskId, reason: EndReason) -> EndTask {
        EndTask { id, reason, by: actor("enough"), retention: DAY, bury_unknown: None }
    }

    pub(crate) async fn end(&self, end: EndTask) -> EndOutcome {
        self.store().end(end, self.now).await.unwrap()
    }

    /// Completes a live task.
    pub(crate) async fn complete(&self, task: &Begun) -> Position {
        match self.end(self.ending(task.id, EndReason::Completed)).await {
            EndOutcome::Ended(_, position) => position,
            other => panic!("expected an end, got {other:?}"),
        }
    }

    /// The partition's present position, as an end that changes nothing tells it.
    pub(crate) async fn position(&self, ended: &Begun) -> Position {
        match self.end(self.ending(ended.id, EndReason::Completed)).await {
            EndOutcome::AlreadyEnded(_, position) => position,
            other => panic!("expected an old end, got {other:?}"),
        }
    }

    pub(crate) fn intent(&mut self, target: FenceTarget) -> FenceIntent {
        let mut random = [0; 10];
        random[..4].copy_from_slice(&self.number().to_be_bytes());
        FenceIntent {
            id: uuid::Builder::from_unix_timestamp_millis(self.now.as_millis(), &random).into_uuid(),
            target,
            at: self.now,
            block_until: self.now,
            forget_at: self.now.saturating_add(DAY),
            by: actor("all of them"),
        }
    }

    pub(crate) fn workload(&mut self, owner: &str) -> FenceIntent {
        self.intent(FenceTarget::Workload(owner.to_owned()))
    }

    /// The whole way of a fence.
    pub(crate) async fn fence(&self, intent: &FenceIntent) {
        let store = self.store();
        store.intend(intent).await.unwrap();
        for partition in Partition::all() {
            store.raise(partition, intent, self.now).await.unwrap();
        }
        store.finish(intent.id).await.unwrap();
    }

    pub(crate) async fn list(&self, owner: Option<&str>, live_only: bool, limit: usize) -> Vec<TaskView> {
        self.list_within(None, owner, live_only, limit).await
    }

    pub(crate) async fn list_within(
        &self,
        within: Option<Partition>,
        owner: Option<&str>,
        live_only: bool,
        limit: usize,
    ) -> Vec<TaskView> {
        let mut all = Vec::new();
        let mut after = None;
        for _ in 0..100_000 {
            let query = ListTasks { owner: owner.map(str::to_owned), within, live_only, after, limit };
            let page = self.store().list(query, self.now).await.unwrap();
            assert!(page.tasks.len() <= limit, "a page of {} where {limit} were asked for", page.tasks.len());
            all.extend(page.tasks);
            match page.next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
        panic!("listing never comes to an end");
    }
}
