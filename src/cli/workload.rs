//! `taskpass workload revoke` and `taskpass trust-domain revoke`: stop everything of somebody.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{Wait, duration, proto_duration};
use super::connect::Connection;
use super::failure::{Exit, Outcome};
use super::output::{Output, inline};
use super::render;
use crate::proto;
use crate::time::{Clock as _, SystemClock};

/// For operators: stop a workload
#[derive(Debug, Args)]
pub(super) struct Workload {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: WorkloadVerb,
}

#[derive(Debug, Subcommand)]
enum WorkloadVerb {
    /// End every task of a workload
    Revoke {
        /// The workload
        #[arg(value_name = "SPIFFE_ID")]
        spiffe_id: String,
        #[command(flatten)]
        stop: Stop,
    },
}

/// For operators: stop a whole trust domain
#[derive(Debug, Args)]
pub(super) struct TrustDomain {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: TrustDomainVerb,
}

#[derive(Debug, Subcommand)]
enum TrustDomainVerb {
    /// End every task of every workload of a trust domain
    Revoke {
        /// Its name
        #[arg(value_name = "TRUST_DOMAIN")]
        trust_domain: String,
        #[command(flatten)]
        stop: Stop,
    },
}

#[derive(Debug, Args)]
struct Stop {
    /// Refuse new tasks for this long; without it new tasks may begin at once
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    block_for: Option<Duration>,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    wait: Wait,
}

impl Workload {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let WorkloadVerb::Revoke { spiffe_id, stop } = self.verb;
        let client = self.connection.open(out).await?;
        let block_for = stop.block_for.map(proto_duration);
        let named = spiffe_id.clone();
        let request = proto::RevokeWorkloadRequest {
            spiffe_id,
            block_for,
            wait: stop.wait.to_proto(),
            note: stop.note,
        };
        let answer = client.revoke_workload(request).await?;
        show(out, &named, &answer.receipt.unwrap_or_default())
    }
}

impl TrustDomain {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let TrustDomainVerb::Revoke { trust_domain, stop } = self.verb;
        let client = self.connection.open(out).await?;
        let block_for = stop.block_for.map(proto_duration);
        let named = trust_domain.clone();
        let request = proto::RevokeTrustDomainRequest {
            trust_domain,
            block_for,
            wait: stop.wait.to_proto(),
            note: stop.note,
        };
        let answer = client.revoke_trust_domain(request).await?;
        show(out, &named, &answer.receipt.unwrap_or_default())
    }
}

/// The receipt; and where nobody of that name could connect, a word that the name may be wrong.
fn show(out: Output, named: &str, receipt: &proto::FenceReceipt) -> Outcome {
    if !receipt.served {
        out.warn(&format!(
            "the broker serves no trust domain of that name: {}. Tasks from before have ended, if there were any; check the name.",
            inline(named)
        ));
    }
    let text = || render::fence_text(receipt, SystemClock.now());
    out.answer(|| render::fence(receipt), text).map(|()| Exit::Done)
}
