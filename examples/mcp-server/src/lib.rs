//! An MCP server behind Taskpass, in three files: what it serves ([`handbook`]), which calls it lets through ([`gate`]), and here how the two are put behind
//! [`Protection`], which follows the broker.
//!
//! It speaks plain HTTP, for a loopback address or behind a proxy that ends TLS, and so takes bearer tokens alone.

pub mod gate;
pub mod handbook;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use taskpass_verifier::feed::{CannotFollow, Follower, FollowerConfig};
use taskpass_verifier::tower::{InvalidResource, Protection};
use taskpass_verifier::verifier::Expected;
use taskpass_verifier::{EnforcementProfile, Refusal, RevocationView, Verifier};
use tokio::net::TcpListener;

use self::handbook::Handbook;

/// Where MCP is spoken.
pub const ENDPOINT: &str = "/mcp";

/// Whom to follow, whose tokens to take, where to listen.
#[derive(Clone, Debug)]
pub struct Config {
    /// Brokers, files and the audience.
    pub follow: FollowerConfig,
    /// `iss` of the tokens.
    pub issuer: String,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    /// The audience or the issuer.
    #[error(transparent)]
    Resource(#[from] InvalidResource),
    /// A tool that no token can name.
    #[error("the tools: {0}")]
    Tools(#[from] Refusal),
    /// The verifier hears of no ends.
    #[error("the verifier follows nothing")]
    Offline,
    /// The broker or the files.
    #[error(transparent)]
    Follow(#[from] CannotFollow),
    /// The address.
    #[error("listening: {0}")]
    Listen(#[from] std::io::Error),
}

/// A server that listens. It answers 503 until it has heard everything from the broker.
pub struct Server {
    follower: Follower,
    listener: TcpListener,
    app: Router,
}

impl Server {
    /// Starts to follow and to listen.
    pub async fn start(config: Config) -> Result<Self, CannotStart> {
        let Config { follow, issuer, listen } = config;
        let expected =
            Expected { issuer, audience: follow.audience.clone(), profile: EnforcementProfile::Bearer };
        let verifier = Arc::new(Verifier::following(expected, Arc::new(RevocationView::default())));
        let protection = Protection::following(verifier)?;
        let app = app(&protection)?;
        let watching = protection.watching().ok_or(CannotStart::Offline)?;
        let follower = Follower::start(follow, Arc::new(watching))?;
        let listener = TcpListener::bind(listen).await?;
        Ok(Self { follower, listener, app })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// How following goes.
    pub const fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Serves until the process ends.
    pub async fn serve(self) -> std::io::Result<()> {
        let Self { follower, listener, app } = self;
        let served = axum::serve(listener, app).await;
        drop(follower);
        served
    }
}

/// The metadata for everybody, all else for those with a good token.
fn app(protection: &Protection) -> Result<Router, Refusal> {
    let metadata = protection.metadata(&Handbook::scope()?).to_string();
    let metadata = get(async move || ([(CONTENT_TYPE, "application/json")], metadata));
    Ok(Router::new()
        .route_service(ENDPOINT, mcp())
        .layer(axum::middleware::from_fn_with_state(protection.clone(), gate::permit))
        .layer(protection.clone())
        .route(protection.metadata_path(), metadata))
}

/// The handbook alone, as a service that nothing protects: it permits no call, since there is no grant.
///
/// No sessions: each request stands for itself, with a token of its own. Answers are whole.
pub fn mcp() -> StreamableHttpService<Handbook, NeverSessionManager> {
    let config =
        StreamableHttpServerConfig::default().with_legacy_session_mode(false).with_json_response(true);
    StreamableHttpService::new(|| Ok(Handbook), Arc::new(NeverSessionManager::default()), config)
}
