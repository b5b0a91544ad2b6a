//! The listener for everybody, from its configuration to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{StartError, bind};
use crate::api::http::public::{self, Limits};
use crate::config::{Config, PublicConfig};
use crate::identity::{WebFiles, WebSource, WebTls};
use crate::ops::Broker;
use crate::time::Clock;

/// With its certificate, and not yet to be reached.
pub(super) struct Public {
    config: PublicConfig,
    source: WebSource,
}

impl Public {
    /// As configured; `None` where it is not to be.
    pub(super) fn open(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Self>, StartError> {
        let Some(config) = config.public.clone() else { return Ok(None) };
        let files = WebFiles { certificate: config.certificate.clone(), key: config.key.clone() };
        let source = WebSource::open(files, Arc::clone(clock));
        let source = source.map_err(|e| StartError::configured("the public listener's certificate", e))?;
        Ok(Some(Self { config, source }))
    }

    /// Takes its address.
    pub(super) async fn listen(self) -> Result<Listening, StartError> {
        let Self { config, source } = self;
        let tls = source.tls().map_err(|e| StartError::new("TLS for everybody", e))?;
        let limits = Limits {
            connections: config.max_connections,
            connections_per_address: config.connections_per_address,
            requests_per_second: config.requests_per_second,
        };
        Ok(Listening { listener: bind(config.listen).await?, source, tls, limits })
    }
}

/// Connections wait in its queue.
pub(super) struct Listening {
    listener: TcpListener,
    source: WebSource,
    tls: WebTls,
    limits: Limits,
}

impl Listening {
    pub(super) const fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Serves until the second of the tokens; its files are followed until the first.
    pub(super) fn serve(
        self,
        tracker: &TaskTracker,
        broker: &Arc<Broker>,
        clock: &Arc<dyn Clock>,
        interval: Duration,
        (background, stop): (&CancellationToken, &CancellationToken),
    ) {
        let Self { listener, source, tls, limits } = self;
        let (broker, clock) = (Arc::clone(broker), Arc::clone(clock));
        tracker.spawn(source.run(interval, background.clone()));
        tracker.spawn(public::serve(listener, tls, limits, broker, clock, stop.clone()));
    }
}
