//! Calls that meet: whoever loses, nothing is good that must not be.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use taskpass::proto;
use tonic::Code;

use crate::support::Store;
use crate::support::broker::Broker;
use crate::support::client::Client;
use crate::support::story::{is_live, mint, reason};
use crate::support::world::DOCS;

const RACES: usize = 150;
const AT_ONCE: usize = 10;
const MINTS: usize = 4;

/// How often the mint came first, and how often the end.
#[derive(Default)]
struct Tally {
    minted: AtomicUsize,
    refused: AtomicUsize,
}

impl Tally {
    /// Takes the answer to a mint that raced: its token, if it has one.
    fn take(&self, answer: Result<proto::MintTokenResponse, tonic::Status>) -> Option<String> {
        match answer {
            Ok(minted) => {
                self.minted.fetch_add(1, Ordering::Relaxed);
                Some(minted.token)
            }
            Err(status) => {
                assert_eq!(
                    (status.code(), reason(&status).as_str()),
                    (Code::FailedPrecondition, "TASK_ENDED")
                );
                self.refused.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Both must have happened, or these were no races.
    fn assert_both(&self) {
        let (minted, refused) = (self.minted.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        assert!(minted > 0 && refused > 0, "no races: {minted} minted, {refused} refused");
    }
}

/// Runs many races, some at a time. Each has its own moment for the end, so that it falls before, among and after the mints.
async fn many<F: Future<Output = ()>>(race: impl FnMut(usize) -> F) {
    futures_util::stream::iter((0..RACES).map(race)).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn a23_no_token_minted_beside_a_completion_is_accepted_after_it(store: Store) {
    let broker = Broker::start(store).await;
    let verifier = broker.verifier();
    let agents = agents(&broker);
    let tally = Tally::default();
    many(async |race| {
        let agent = &agents[race % agents.len()];
        let task = agent.docs_task().await;
        let mints = async {
            let mut tokens = Vec::new();
            for calls in [1, MINTS - 1] {
                let answers = join_all((0..calls).map(|_| agent.mint(mint(&task, DOCS)))).await;
                tokens.extend(answers.into_iter().filter_map(|answer| tally.take(answer)));
            }
            tokens
        };
        let complete = async {
            for _ in 0..race % 4 {
                agent.get(&task.id).await.unwrap();
            }
            let done = agent.complete(&task.id).await.unwrap();
            // From this answer on nothing of the task is good, nor ever will be.
            let late = agent.mint(mint(&task, DOCS)).await.unwrap_err();
            assert_eq!(reason(&late), "TASK_ENDED");
            done
        };
        let (tokens, done) = tokio::join!(mints, complete);
        for token in &tokens {
            assert!(!verifier.accepts(token).await, "accepted after the completion's answer");
        }
        let ended = agent.get(&task.id).await.unwrap();
        assert!(!is_live(&ended));
        // Those that came first are on record and in the receipt, and nothing was recorded behind the end.
        assert_eq!(ended, done.task.unwrap());
        assert_eq!(usize::try_from(ended.credentials_issued).unwrap(), tokens.len());
        assert_eq!(done.receipt.unwrap().expires_by.is_some(), !tokens.is_empty());
    })
    .await;
    tally.assert_both();
}

/// Some callers with connections of their own, so that calls do not queue up in one.
fn agents(broker: &Broker) -> Vec<Client> {
    (0..5).map(|n| broker.workload(&format!("agent/r{n}"))).collect()
}

async fn a23_no_token_minted_beside_a_bulk_end_is_accepted_after_it(store: Store) {
    let broker = Broker::start(store).await;
    let (operator, verifier) = (broker.operator(), broker.verifier());
    let agents = agents(&broker);
    let tally = Tally::default();
    for round in 0..8 {
        let tasks = join_all(agents.iter().map(Client::docs_task)).await;
        let mints = async {
            let mut tokens = Vec::new();
            for _ in 0..6 {
                let answers =
                    join_all(agents.iter().zip(&tasks).map(|(a, task)| a.mint(mint(task, DOCS)))).await;
                tokens.extend(answers.into_iter().filter_map(|answer| tally.take(answer)));
            }
            tokens
        };
        let revoke = async {
            for _ in 0..round % 4 {
                agents[0].get(&tasks[0].id).await.unwrap();
            }
            operator.revoke_trust_domain("example.org", 0).await.unwrap();
            for (agent, task) in agents.iter().zip(&tasks) {
                assert!(!is_live(&agent.get(&task.id).await.unwrap()), "live behind the answer");
            }
        };
        let (tokens, ()) = tokio::join!(mints, revoke);
        for token in &tokens {
            assert!(!verifier.accepts(token).await, "accepted after the bulk end's answer");
        }
    }
    tally.assert_both();
}

async fn a_token_that_is_revoked_while_it_is_validated_is_refused_from_the_answer_on(store: Store) {
    let broker = Broker::start(store).await;
    let verifier = broker.verifier();
    let agents = agents(&broker);
    many(async |race| {
        let agent = &agents[race % agents.len()];
        let task = agent.docs_task().await;
        let minted = agent.mint(mint(&task, DOCS)).await.unwrap();
        let asked = join_all((0..3).map(|_| verifier.accepts(&minted.token)));
        let revoked = async {
            agent.revoke_credential(&minted.credential_id).await.unwrap();
            assert!(!verifier.accepts(&minted.token).await, "accepted after the revocation's answer");
        };
        tokio::join!(asked, revoked);
        agent.complete(&task.id).await.unwrap();
    })
    .await;
}

on_both_stores!(
    a23_no_token_minted_beside_a_completion_is_accepted_after_it,
    a23_no_token_minted_beside_a_bulk_end_is_accepted_after_it,
    a_token_that_is_revoked_while_it_is_validated_is_refused_from_the_answer_on,
);
