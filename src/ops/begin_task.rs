//! Begin: a workload declares what it is about to do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use ring::digest::{Context, SHA256};
use taskpass_verifier::claims::ToolName;

use crate::audience::Audience;
use crate::error::{Error, Reason, Result};
use crate::failpoint::{Place, reach};
use crate::ids::{self, Partition, TaskId};
use crate::policy::action::{self, BeginFacts};
use crate::policy::{Permit, Principal};
use crate::task::store::{self, BeginOutcome, Idempotency};
use crate::task::{Grant, Status, TaskFacts};
use crate::time::Timestamp;

use super::command::BeginTask;
use super::decide::{no_audience, noted};
use super::tasks::{Known, ended, not_found, store_error};
use super::trail::Trail;
use super::{Broker, Caller, answer};

/// A task that took its place this long ago and is not stored will not be: both steps are bounded by less.
const BEGINNING: Duration = Duration::from_secs(12);
/// Holders of places that are looked at to see whether there are dead ones; if there are, all are looked at, so many at a time.
const LOOK_AT: usize = 32;
/// A workload whose places were looked at is not looked at again for so long.
const SEARCH_AGAIN: Duration = Duration::from_secs(1);

impl Broker {
    /// Declares a task; true if the idempotency key led to one that an earlier call began.
    pub async fn begin_task(
        &self,
        caller: &Caller,
        command: BeginTask,
        now: Timestamp,
    ) -> Result<(answer::Task, bool)> {
        let mut trail = Trail::new("BeginTask", "");
        let result = self.begin(caller, command, now, &mut trail).await;
        self.finish(caller, trail, result, now).await
    }

    async fn begin(
        &self,
        caller: &Caller,
        command: BeginTask,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::Task, bool)> {
        let audiences: Vec<_> = command.grants.iter().map(|g| g.audience.as_str()).collect();
        trail.fact("audiences", audiences.join(" "));
        let permit = self
            .permit_begin(caller, &command, trail)
            .map_err(|error| self.unless_one_is_hidden(caller, &command, error))?;
        let cap = permit.task_lifetime(self.settings.lifetimes.max_task);
        let idempotency = command.idempotency_key.as_ref().map(|key| idempotency(caller, key, &command));
        let [random] = ids::random()?;
        let place = idempotency.map_or(random, |i| self.keyring().record_seal().place(&i.key));
        let partition = Partition::from_low_bits(place);
        let deadline = now.saturating_add(command.lifetime.min(cap));
        let facts = TaskFacts {
            id: self.new_id(partition, now).await?,
            lineage: Vec::new(),
            owner: caller.spiffe_id().clone(),
            subject: command.subject,
            goal: command.goal,
            grants: command.grants,
            began_at: now,
            latest_deadline: now.saturating_add(cap),
            idempotency_key: idempotency.map(|i| i.key),
        };
        self.grants_fit(&facts, now)?;
        trail.object(facts.id);
        trail.fact("deadline", deadline);
        let outcome = match self.reserve_place(&facts, deadline, idempotency, permit, now).await? {
            Some(known) => known,
            None => self.store_task(&facts, deadline, idempotency, now).await?,
        };
        self.begun(facts, outcome, now, trail).await
    }

    /// Young enough to be seen to belong to the partition's generation, as that is known here. A partition that nobody has used since the start is looked at once, so that it is.
    async fn new_id(&self, partition: Partition, now: Timestamp) -> Result<TaskId> {
        if self.store.generation(partition).is_none() {
            let nobody = TaskId::from_parts(0, partition, [0; 10]);
            let _nothing = self.store.read(nobody, now).await.map_err(store_error)?;
        }
        ids::new_task_id_in(now, partition, self.store.generation(partition))
    }

    /// Every audience is judged by itself; the least of their caps counts.
    fn permit_begin(
        &self,
        caller: &Caller,
        command: &BeginTask,
        trail: &mut Trail,
    ) -> Result<Permit<action::BeginTask>> {
        let mut asked = Vec::with_capacity(command.grants.len());
        for grant in &command.grants {
            let audience = self.audience(&grant.audience)?;
            self.issuer(&audience)?;
            asked.push((known_tools(&audience, grant)?, audience));
        }
        let asked = asked.iter().map(|(tools, audience)| {
            let facts = BeginFacts {
                tools,
                lifetime: command.lifetime,
                has_subject: command.subject.is_some(),
                depth: 0,
            };
            (audience.as_ref(), facts)
        });
        let principal = Principal::of(&caller.peer);
        let permit = noted(self.policy.decide_all::<action::BeginTask>(&principal, asked), trail)?;
        if let Some(subject) = &command.subject {
            trail.fact("subject", subject);
            let _may_act = self.permit::<action::AssertSubject>(caller, subject.as_str(), (), trail)?;
        }
        Ok(permit)
    }

    /// Why nothing begins, as the caller may see it: where an audience is not there, or is hidden from it, the first such is the reason, whatever else is.
    fn unless_one_is_hidden(&self, caller: &Caller, command: &BeginTask, error: Error) -> Error {
        let hidden = command.grants.iter().find(|grant| {
            let audience = self.audience(&grant.audience);
            !audience.is_ok_and(|audience| self.sees(caller, &audience))
        });
        match hidden {
            None => error,
            Some(grant) => no_audience(&grant.audience).with_detail(error.log_line()),
        }
    }

    /// Takes a place among the workload's live tasks. When all are taken, those of dead tasks are given back first. An outcome where no place is needed: the
    /// idempotency key has led to a task before.
    async fn reserve_place(
        &self,
        facts: &TaskFacts,
        deadline: Timestamp,
        idempotency: Option<Idempotency>,
        permit: Permit<action::BeginTask>,
        now: Timestamp,
    ) -> Result<Option<BeginOutcome>> {
        let limit = permit.live_tasks(self.settings.limits.live_tasks_per_workload);
        let owner = facts.owner.as_str();
        let reserve =
            || async { self.store.reserve(owner, facts.id, deadline, limit, now).await.map_err(store_error) };
        let Err(holders) = reserve().await? else { return Ok(None) };
        if let Some(key) = idempotency {
            let replayed = self.store.replay(facts.id.partition(), key, now).await.map_err(store_error)?;
            if replayed.is_some() {
                return Ok(replayed);
            }
        }
        if self.give_back_dead(facts, holders, now).await? && reserve().await?.is_ok() {
            return Ok(None);
        }
        metrics::counter!("taskpass_limit_reached_total", "limit" => "live_tasks_per_workload").increment(1);
        let sentence = format!(
            "All {limit} places for live tasks of this workload are taken. Complete a task first; if some have just ended, try again in a second."
        );
        Err(Error::new(Reason::TooManyTasks, sentence))
    }

    /// Gives back the places of tasks that are dead: true if there were any, or if a search that was under way has ended. Looks at some of the holders, others each time, and for one
    /// workload no more than once in a while: whoever calls again and again at its limit makes no more work than others do. Where one of them is dead it looks at all: after an end of many, or a
    /// new generation, there is room for as many as before.
    async fn give_back_dead(
        &self,
        facts: &TaskFacts,
        mut holders: Vec<TaskId>,
        now: Timestamp,
    ) -> Result<bool> {
        let search = self.full.get_or_insert_with(&facts.owner, || Ok::<_, Infallible>(Arc::default()));
        let search = search.unwrap_or_else(|never| match never {});
        let Ok(mut searched) = search.try_lock() else {
            let _over = search.lock().await;
            return Ok(true);
        };
        if searched.is_some_and(|at: Timestamp| now >= at && now.since(at) < SEARCH_AGAIN) {
            return Ok(false);
        }
        *searched = Some(now);
        let [first, second, ..] = *facts.id.as_bytes().last_chunk::<8>().unwrap_or(&[0; 8]);
        let turn = usize::from(u16::from_be_bytes([first, second]));
        let turn = turn.checked_rem(holders.len()).unwrap_or_default();
        holders.rotate_left(turn);
        let mut any = false;
        for some in holders.chunks(LOOK_AT) {
            let dead = self.dead_of(some, now).await?;
            if !dead.is_empty() {
                self.store.release(facts.owner.as_str(), &dead).await.map_err(store_error)?;
                any = true;
            }
            if !any {
                break;
            }
        }
        Ok(any)
    }

    async fn dead_of(&self, holders: &[TaskId], now: Timestamp) -> Result<Vec<TaskId>> {
        let looked = holders.iter().map(async |holder| {
            let dead = match self.read_task(*holder, now).await? {
                Some((_, view)) => !view.status.is_live(),
                // Its place is taken before it is stored: what is not there may be about to be.
                None => now.since(Timestamp::from_millis(holder.unix_millis())) >= BEGINNING,
            };
            Ok::<_, Error>(dead.then_some(*holder))
        });
        Ok(try_join_all(looked).await?.into_iter().flatten().collect())
    }

    async fn store_task(
        &self,
        facts: &TaskFacts,
        deadline: Timestamp,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<BeginOutcome> {
        let id = facts.id;
        let task = store::BeginTask {
            id,
            lineage: facts.lineage.clone(),
            owner: facts.owner.to_string(),
            facts: crate::task::SealedFacts(self.keyring().record_seal().seal(id, &facts.encode())),
            deadline,
            retention: self.settings.lifetimes.retention,
            idempotency,
        };
        reach(Place::BeginReserved);
        let outcome = match (self.blocked(&facts.owner, now), idempotency) {
            (None, _) => self.store.begin(task, now).await.map_err(store_error)?,
            (Some(blocked), None) => blocked,
            (Some(blocked), Some(key)) => {
                let known = self.store.replay(id.partition(), key, now).await.map_err(store_error)?;
                known.unwrap_or(blocked)
            }
        };
        reach(Place::BeginStored);
        if !matches!(outcome, BeginOutcome::Begun(_)) {
            self.give_back(facts, id).await;
        }
        Ok(outcome)
    }

    /// The answer to a begin, whatever came of it.
    async fn begun(
        &self,
        facts: TaskFacts,
        outcome: BeginOutcome,
        now: Timestamp,
        trail: &mut Trail,
    ) -> Result<(answer::Task, bool)> {
        let id = facts.id;
        match outcome {
            BeginOutcome::Begun(view) => {
                let known = Known {
                    facts: Arc::new(facts),
                    deadline: view.record.head.deadline,
                    version: view.record.head.version,
                    stored_bytes: view.record.facts.0.len(),
                };
                self.known.insert(id, known.clone());
                Ok((Self::answer_task(&known, &view), false))
            }
            BeginOutcome::Replayed(first) => {
                trail.object(first);
                trail.fact("replayed", true);
                let (known, view) = self.read_task(first, now).await?.ok_or_else(|| not_found(first))?;
                Ok((Self::answer_task(&known, &view), true))
            }
            BeginOutcome::KeyReused => Err(Error::new(
                Reason::IdempotencyKeyReused,
                "This idempotency key was used for another request. Use a new key for a new task.",
            )),
            BeginOutcome::Blocked(until) => {
                let sentence = format!(
                    "An operator refuses new tasks of this workload or its trust domain until {until}. \
                     Try again then, or ask your operators."
                );
                Err(Error::new(Reason::Blocked, sentence))
            }
            BeginOutcome::ParentEnded(end) => Err(ended(&Status::Ended(end))),
            BeginOutcome::ParentUnknown => {
                Err(facts.lineage.last().map_or_else(|| not_found(id), |p| not_found(*p)))
            }
        }
    }

    /// A place that is not given back goes by itself at the deadline, or when it is missed.
    async fn give_back(&self, facts: &TaskFacts, id: TaskId) {
        if let Err(error) = self.store.release(facts.owner.as_str(), &[id]).await {
            tracing::debug!(task = %id, %error, "a place is not given back yet");
        }
    }
}

/// The tools of a grant, all of which the audience must offer.
fn known_tools<'g>(audience: &Audience, grant: &'g Grant) -> Result<Vec<&'g ToolName>> {
    let unknown = grant.tools.keys().find(|name| audience.tool(name.as_str()).is_none());
    match unknown {
        None => Ok(grant.tools.keys().collect()),
        Some(name) => {
            let sentence = format!(
                "Audience {} offers no tool {name}. ListAudiences names those that it offers.",
                grant.audience
            );
            Err(Error::new(Reason::UnknownTool, sentence))
        }
    }
}

/// The digests by which a retry finds its task: over owner and key, and over everything asked for.
fn idempotency(caller: &Caller, key: &str, command: &BeginTask) -> Idempotency {
    let digest = |parts: &[&[u8]]| {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    };
    let grants = TaskFacts::encode_grants(&command.grants);
    let lifetime = crate::time::millis(command.lifetime).to_be_bytes();
    let subject = command.subject.as_deref().unwrap_or_default().as_bytes();
    Idempotency {
        key: digest(&[caller.spiffe_id().as_str().as_bytes(), key.as_bytes()]),
        request: digest(&[command.goal.as_bytes(), &grants, &lifetime, subject]),
    }
}
