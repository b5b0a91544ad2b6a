//! Who is there when the story is told.

use std::time::Duration;

use rcgen::KeyPair;

use crate::cli::connect::{Client, Target};
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::narrator::{Narrator, Told};
use crate::cli::output::Output;
use crate::cli::pki::{DevCa, Workload};
use crate::cli::sandbox::{BROKER_ID, WORKLOADS};
use crate::cli::scratch::{House, Scratch};
use crate::identity::{SpiffeId, SvidFiles, TrustDomain};
use crate::proto::ListAudiencesRequest;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Everybody.
pub(super) struct Stage {
    house: House,
    pub(super) agent: Client,
    pub(super) researcher: Client,
    pub(super) verifier: Client,
    pub(super) payments: Client,
    pub(super) operator: Client,
}

impl Stage {
    /// Makes identities, starts a broker, turns a stranger away, and connects everybody else.
    pub(super) async fn set(scratch: &Scratch, narrator: &mut Narrator) -> Result<Self, Failure> {
        let out = narrator.out();
        let house = House::open(scratch, narrator, |_| {}).await?;
        narrator.step("stranger", stranger(house.target("stranger")?, out)).await?;
        let agent = narrator.step("proof", prove(house.target("agent")?, out)).await?;
        let connect = async |name: &str| house.connect(name).await;
        let others = async {
            let others =
                (connect("researcher").await?, connect("verifier").await?, connect("payments").await?);
            let text = "Another agent, two MCP servers and an operator connect in the same way.";
            Ok(((others, connect("operator").await?), text.to_owned()))
        };
        let ((researcher, verifier, payments), operator) = narrator.step("others", others).await?;
        Ok(Self { house, agent, researcher, verifier, payments, operator })
    }

    /// Somebody connects once more.
    pub(super) async fn connect(&self, name: &str) -> Result<Client, Failure> {
        self.house.connect(name).await
    }

    /// Ends the broker.
    pub(super) async fn clear(self, narrator: &mut Narrator) -> Result<(), Failure> {
        self.house.close(narrator).await
    }
}

/// The agent's name alone is worth nothing.
async fn stranger(target: Target, out: Output) -> Told<()> {
    let id = "spiffe://example.org/agent/support";
    forge(&target.svid, id, SystemClock.now())?;
    let refused = match Client::connect(&target, out).await {
        Ok(client) => client.list_audiences(ListAudiencesRequest {}).await.map(drop),
        Err(failure) => Err(failure),
    };
    match refused {
        Ok(()) => Err(Failure::failed("a stranger was let in")),
        Err(failure) if failure.turned_away() => {
            let text = format!(
                "A stranger brings a certificate that says {id} too, signed by nobody we know. Refused."
            );
            Ok(((), text))
        }
        Err(failure) => Err(failure),
    }
}

/// A certificate as the agent has it, from an authority of one's own.
fn forge(svid: &SvidFiles, id: &str, now: Timestamp) -> Result<(), Failure> {
    let trust_domain: TrustDomain = WORKLOADS.parse().map_err(Failure::failed)?;
    let id: SpiffeId = id.parse().map_err(Failure::failed)?;
    let key = KeyPair::generate().map_err(|why| Failure::at("making a key", why))?;
    let not_after = now.saturating_add(Duration::from_secs(600));
    let forged = DevCa::create(&trust_domain, now)?.issue(
        &Workload { id: &id, serves: false },
        &key,
        now,
        not_after,
    )?;
    input::create_private(&svid.key, &key.serialize_pem())?;
    input::replace(&svid.certificate, &forged, 0o600)
}

async fn prove(target: Target, out: Output) -> Told<Client> {
    let client = Client::connect(&target, out).await?;
    let audiences = client.list_audiences(ListAudiencesRequest {}).await?.audiences;
    let text = format!(
        "The agent proves that it is spiffe://example.org/agent/support, the broker proves that it is {BROKER_ID}. \
         There are {} audiences to work with.",
        audiences.len()
    );
    if audiences.is_empty() { Err(Failure::failed("no audience is shown")) } else { Ok((client, text)) }
}
