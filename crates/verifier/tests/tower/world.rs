//! A server behind the layer, with a view and a clock that the test moves by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use taskpass_verifier::claims::{Confirmation, Lineage, Scope, Thumbprint};
use taskpass_verifier::ids::{CredentialId, Partition, TaskId};
use taskpass_verifier::tower::Protection;
use taskpass_verifier::verifier::Expected;
use taskpass_verifier::view::{Closed, Delta, Entry, Position, Snapshot};
use taskpass_verifier::{
    At, Claims, EnforcementProfile, Grant, KeySet, Moment, Presented, Refusal, RevocationView, UnixSeconds,
    Verifier,
};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use crate::http::{Answer, ask};
use crate::support::{AUDIENCE, ISSUER, Issuer, NOW, claims};

pub(crate) const METADATA: &str = "https://files.example/.well-known/oauth-protected-resource/mcp";
pub(crate) const BOUND: Duration = Duration::from_secs(15);
/// That of `support::claims`.
const PARTITION: u8 = 7;

pub(crate) struct World {
    pub(crate) issuer: Issuer,
    pub(crate) protection: Protection,
    pub(crate) address: SocketAddr,
    /// What streams send.
    pub(crate) says: broadcast::Sender<String>,
    clock: Arc<AtomicU64>,
    position: std::sync::Mutex<Position>,
}

impl World {
    /// Nothing was heard yet.
    pub(crate) async fn silent(profile: EnforcementProfile, presented: Option<Presented>) -> Self {
        let issuer = Issuer::new();
        let expected = Expected { issuer: ISSUER.into(), audience: AUDIENCE.into(), profile };
        let verifier = Arc::new(Verifier::following(expected, Arc::new(RevocationView::default())));
        let keys = KeySet::new(issuer.keys.iter().cloned()).unwrap();
        verifier.replace_keys(1, keys).unwrap();
        let clock = Arc::new(AtomicU64::new(1_000_000_000));
        let hands = Arc::clone(&clock);
        let read = move || At::moment(Moment::from_nanos(hands.load(Ordering::SeqCst)));
        let protection = Protection::new(verifier, read).unwrap();
        let (says, _) = broadcast::channel(8);
        let app = app(&protection, &says, presented);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let position = Position { generation: claims().taskpass.generation, seq: 41, chain: [0; 20] };
        Self { issuer, protection, address, says, clock, position: position.into() }
    }

    /// Everything was heard, just now.
    pub(crate) async fn of(profile: EnforcementProfile, presented: Option<Presented>) -> Self {
        let world = Self::silent(profile, presented).await;
        let position = *world.position.lock().unwrap();
        let view = world.view();
        view.replace(&Snapshot { partition: partition(), position, entries: &[] }).unwrap();
        view.set_bound(BOUND);
        world.hear();
        world
    }

    pub(crate) async fn new() -> Self {
        Self::of(EnforcementProfile::Bearer, None).await
    }

    pub(crate) fn view(&self) -> &RevocationView {
        self.protection.verifier().view().unwrap()
    }

    fn now(&self) -> Moment {
        Moment::from_nanos(self.clock.load(Ordering::SeqCst))
    }

    /// Nothing is heard meanwhile.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    /// A heartbeat: the broker's time is `NOW` and what has passed since the start.
    pub(crate) fn hear(&self) {
        let now = self.now();
        let millis = NOW.0 * 1_000 + (now.as_nanos() - 1_000_000_000) / 1_000_000;
        self.view().set_time(millis, now, now);
        assert!(self.view().heard(partition(), &self.position.lock().unwrap(), now));
    }

    /// The task of `claims` ends, as a delta of the feed says it.
    pub(crate) fn end_task(&self, task: TaskId) {
        let mut from = self.position.lock().unwrap();
        let to = Position { seq: from.seq + 1, ..*from };
        let entry = Entry::TaskEnded { task, forget_at: NOW.saturating_add(900) };
        let entries = [(to.seq, entry)];
        self.view().apply(&Delta { partition: partition(), from: *from, to, entries: &entries }).unwrap();
        *from = to;
    }

    pub(crate) fn close(&self, why: Closed) {
        self.view().close_all(why);
    }

    pub(crate) fn token(&self) -> String {
        self.issuer.mint(&claims())
    }

    pub(crate) fn token_with(&self, change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.issuer.mint(&claims)
    }

    pub(crate) async fn ask(&self, target: &str, fields: &[String]) -> Answer {
        ask(self.address, target, fields).await
    }

    /// `GET /whoami` with a bearer token.
    pub(crate) async fn present(&self, token: &str) -> Answer {
        self.ask("/whoami", &[bearer(token)]).await
    }
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// The task of another agent's work in the same partition.
pub(crate) fn other_task(claims: &mut Claims) {
    let task = crate::support::task(PARTITION, 77);
    claims.jti = CredentialId { task, number: 1 };
    claims.taskpass.task = task;
    claims.txn = task;
    claims.taskpass.lineage = Lineage::new(vec![]).unwrap();
}

pub(crate) fn bound_to_certificate(thumbprint: Thumbprint) -> impl FnOnce(&mut Claims) {
    move |claims| claims.cnf = Some(Confirmation::X5tS256(thumbprint))
}

pub(crate) fn bound_to_jkt(thumbprint: Thumbprint) -> impl FnOnce(&mut Claims) {
    move |claims| claims.cnf = Some(Confirmation::Jkt(thumbprint))
}

pub(crate) fn thumbprint(n: u8) -> Thumbprint {
    Thumbprint::from_bytes([n; 32])
}

pub(crate) fn expires_in(seconds: u64) -> impl FnOnce(&mut Claims) {
    move |claims| claims.exp = UnixSeconds(NOW.0 + seconds)
}

fn partition() -> Partition {
    Partition::new(PARTITION).unwrap()
}

fn app(protection: &Protection, says: &broadcast::Sender<String>, proven: Option<Presented>) -> Router {
    let open = {
        let metadata = protection.metadata(&"mcp mcp:tool:files.read".parse::<Scope>().unwrap());
        let path = protection.metadata_path().to_owned();
        Router::new()
            .route(&path, get(async move || ([("content-type", "application/json")], metadata.to_string())))
    };
    let stream = {
        let says = says.clone();
        async move || axum::body::Body::from_stream(lines(&says))
    };
    let sized = {
        let says = says.clone();
        async move || axum::body::Body::new(Sized(lines(&says)))
    };
    let protected = Router::new()
        .route("/whoami", get(whoami))
        .route("/call/{tool}", get(call))
        .route("/stream", get(stream))
        .route("/short", get(short))
        .route("/sized", get(sized))
        .layer(Extension(protection.clone()))
        .layer(protection.clone())
        .layer(axum::middleware::map_response(show_refusal));
    // As the TLS layer of a server does it, which comes before.
    match proven {
        Some(proven) => protected.layer(Extension(proven)).merge(open),
        None => protected.merge(open),
    }
}

/// What is said from now on.
fn lines(
    says: &broadcast::Sender<String>,
) -> impl tokio_stream::Stream<Item = Result<String, std::convert::Infallible>> + use<> {
    let said = tokio_stream::wrappers::BroadcastStream::new(says.subscribe());
    let first = tokio_stream::once(Ok("hello\n".to_owned()));
    tokio_stream::StreamExt::chain(first, tokio_stream::StreamExt::map(said, |line| Ok(line.unwrap())))
}

async fn whoami(Extension(grant): Extension<Grant>, request: Request) -> String {
    let authorization = request.headers().contains_key("authorization");
    format!("{} authorization={authorization}", grant.claims().client_id)
}

/// Of unknown length, and over soon.
async fn short() -> axum::body::Body {
    let line: Result<_, std::convert::Infallible> = Ok("all of it\n");
    axum::body::Body::from_stream(tokio_stream::once(line))
}

/// Of a length that it tells at once, and longer on its way: as what a proxy passes on.
struct Sized<S>(S);

impl<S: tokio_stream::Stream<Item = Result<String, std::convert::Infallible>> + Unpin> http_body::Body
    for Sized<S>
{
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let next = std::pin::Pin::new(&mut self.0).poll_next(context);
        next.map(|line| line.map(|line| line.map(|line| http_body::Frame::data(line.into()))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(1_000)
    }
}

/// Arguments come as `?path=...`.
async fn call(
    Extension(grant): Extension<Grant>,
    Extension(protection): Extension<Protection>,
    Path(tool): Path<String>,
    request: Request,
) -> Response {
    let argument = request.uri().query().and_then(|query| query.strip_prefix("path="));
    let arguments = argument.map(|path| serde_json::Map::from_iter([("path".to_owned(), path.into())]));
    match grant.permits_tool(&tool, arguments.as_ref()) {
        Ok(()) => "done".into_response(),
        Err(why) => protection.refuse_call(&tool, why),
    }
}

/// A layer outside of the protection can count refusals by their cause.
async fn show_refusal(mut response: Response) -> Response {
    if let Some(why) = response.extensions().get::<Refusal>() {
        let value = why.as_str().parse().unwrap();
        response.headers_mut().insert("x-refusal", value);
    }
    response
}
