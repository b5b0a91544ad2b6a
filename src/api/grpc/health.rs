//! The standard health service. All services share one status, because they share what they depend on: it follows the store and the audit
//! log, and a broker that is told to end says so to those who watch and lets them go.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::status;
use crate::ops::Broker;

/// How often what the broker depends on is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Whether calls are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    /// They are.
    Yes,
    /// Something that the broker depends on does not answer.
    No,
    /// The broker is on its way out.
    NoMore,
}

/// Looks for obstacles for ever, and says what it found.
pub(super) async fn keep(broker: &Broker, serving: &watch::Sender<Serving>) {
    loop {
        let found = if broker.obstacle().await.is_none() { Serving::Yes } else { Serving::No };
        serving.send_if_modified(|said| std::mem::replace(said, found) != found);
        tokio::time::sleep(LOOK).await;
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Health {
    services: BTreeSet<String>,
    serving: watch::Receiver<Serving>,
}

impl Health {
    /// For services by name; the empty name, which stands for the broker, is always known.
    pub(super) fn new(services: impl IntoIterator<Item = String>, serving: watch::Receiver<Serving>) -> Self {
        let services = services.into_iter().chain([String::new()]).collect();
        Self { services, serving }
    }

    fn knows(&self, request: &Request<HealthCheckRequest>) -> bool {
        self.services.contains(&request.get_ref().service)
    }
}

fn said(serving: Serving) -> ServingStatus {
    match serving {
        Serving::Yes => ServingStatus::Serving,
        Serving::No | Serving::NoMore => ServingStatus::NotServing,
    }
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request) {
            return Err(status::unknown_service());
        }
        Ok(Response::new(message(said(*self.serving.borrow()))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watching = Watching { serving: self.serving.clone(), known: self.knows(&request), told: None };
        let news = stream::unfold(watching, |mut watching| async {
            watching.next().await.map(|news| (Ok(message(news)), watching))
        });
        Ok(Response::new(Box::pin(news)))
    }
}

/// One who watches.
struct Watching {
    serving: watch::Receiver<Serving>,
    known: bool,
    told: Option<ServingStatus>,
}

impl Watching {
    /// What was not told yet, when there is any; nothing when the broker goes and that was told. Whoever asked for a service that there is not is
    /// told so, and waits (as the protocol of health checks wants it).
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let serving = *self.serving.borrow_and_update();
            let news = if self.known { said(serving) } else { ServingStatus::ServiceUnknown };
            if self.told != Some(news) {
                self.told = Some(news);
                return Some(news);
            }
            if serving == Serving::NoMore || self.serving.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watcher_hears_of_each_change_once_and_is_let_go_at_the_end() {
        let (serving, heard) = watch::channel(Serving::Yes);
        let mut watching = Watching { serving: heard, known: true, told: None };
        assert_eq!(watching.next().await, Some(ServingStatus::Serving));
        serving.send_replace(Serving::No);
        assert_eq!(watching.next().await, Some(ServingStatus::NotServing));
        serving.send_replace(Serving::Yes);
        assert_eq!(watching.next().await, Some(ServingStatus::Serving));
        serving.send_replace(Serving::NoMore);
        assert_eq!(watching.next().await, Some(ServingStatus::NotServing));
        assert_eq!(watching.next().await, None);
    }

    #[tokio::test]
    async fn a_watcher_of_nothing_is_told_so_and_let_go_at_the_end() {
        let (serving, heard) = watch::channel(Serving::Yes);
        let mut watching = Watching { serving: heard, known: false, told: None };
        assert_eq!(watching.next().await, Some(ServingStatus::ServiceUnknown));
        serving.send_replace(Serving::NoMore);
        assert_eq!(watching.next().await, None);
    }
}
