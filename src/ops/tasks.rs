//! Reading tasks on behalf of the other operations, and what is remembered of them between calls.
//!
//! What is remembered (facts that never change, deadline, version) is a premise that the store proves in the recording step, never a
//! truth by itself.

use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::ids::TaskId;
use crate::task::record::TaskRecord;
use crate::task::store::{StoreError, TaskView};
use crate::task::{Status, TaskFacts};
use crate::time::Timestamp;

use super::{Broker, answer};

/// What a broker remembers of a task.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Unsealed once.
    pub(super) facts: Arc<TaskFacts>,
    /// As of `version`.
    pub(super) deadline: Timestamp,
    /// Of the stored record.
    pub(super) version: u32,
    /// How long the stored facts are: the size that it counts for.
    pub(super) stored_bytes: usize,
}

impl Broker {
    /// The task as it stands in the store now; `None` if it has no such record. A forged record is an error and an alarm.
    pub(super) async fn read_task(&self, id: TaskId, now: Timestamp) -> Result<Option<(Known, TaskView)>> {
        let Some(view) = self.store.read(id, now).await.map_err(store_error)? else { return Ok(None) };
        if view.record.head.tombstone {
            return Ok(None);
        }
        let known = self.unseal(id, &view.record)?;
        self.known.insert(id, known.clone());
        Ok(Some((known, view)))
    }

    /// What is remembered of a task, else what the store says.
    pub(super) async fn known_task(&self, id: TaskId, now: Timestamp) -> Result<Option<Known>> {
        if let Some(known) = self.known.get(&id) {
            return Ok(Some(known));
        }
        Ok(self.read_task(id, now).await?.map(|(known, _)| known))
    }

    /// Checks the seal and that what lies open in the record is what was sealed.
    pub(super) fn unseal(&self, id: TaskId, record: &TaskRecord) -> Result<Known> {
        let forged = |what: &str| {
            metrics::counter!("taskpass_forged_records_total").increment(1);
            tracing::error!(task = %id, what, "a task record in the store was tampered with");
            Error::internal(format_args!("the record of task {id} is forged: {what}"))
        };
        let keyring = self.keyring();
        let bytes = keyring.record_seal().open(id, &record.facts.0).map_err(|_| forged("seal"))?;
        let facts = TaskFacts::decode(bytes).map_err(|_| forged("form"))?;
        if facts.id != id || facts.lineage != record.lineage || facts.owner.as_str() != record.owner {
            return Err(forged("open part"));
        }
        if record.head.deadline > facts.latest_deadline {
            return Err(forged("deadline"));
        }
        Ok(Known {
            facts: Arc::new(facts),
            deadline: record.head.deadline,
            version: record.head.version,
            stored_bytes: record.facts.0.len(),
        })
    }

    /// For an answer.
    pub(super) fn answer_task(known: &Known, view: &TaskView) -> answer::Task {
        answer::Task {
            facts: Arc::clone(&known.facts),
            status: view.status.clone(),
            deadline: view.record.head.deadline,
            credentials: view.record.head.credentials,
            may_have_certificate: view.may_have_certificate(),
        }
    }
}

/// The same words whether there is no such task or it is not the caller's.
pub(super) fn not_found(id: TaskId) -> Error {
    Error::new(Reason::TaskNotFound, format!("There is no task {id} that you may see."))
}

/// The task has ended.
pub(super) fn ended(status: &Status) -> Error {
    let why = match status {
        Status::Live => "ended",
        Status::Ended(end) => end.reason.as_str(),
    };
    Error::new(Reason::TaskEnded, format!("The task has ended ({why}). Begin another."))
}

/// A store's silence or refusal, in the caller's terms.
pub(super) fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::Unavailable(detail) => Error::store(detail),
        StoreError::ClockSkew(by) => Error::new(
            Reason::ClockSkew,
            "The broker's clock and its store's are too far apart. Its operators must set them right.",
        )
        .with_detail(format_args!("{by:?} apart")),
        StoreError::Damaged(detail) => Error::internal(detail),
    }
}
