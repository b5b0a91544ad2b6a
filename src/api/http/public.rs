//! The public listener: HTTPS for whoever comes, without client certificates. It gives out what is for everybody: the key set of each issuer, the task CA's certificates and
//! revocation lists.
//!
//! - `pages`: what is given out, made once for each change.
//! - `rates`: how often one address may ask.
//!
//! Whatever is asked, and however often, is answered from memory. Nobody can be told from here which trust domains are served but by naming them. No body is read.

mod pages;
mod rates;

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::identity::shares::{Share, Shares};
use crate::identity::{Origin, WebTls};
use crate::ops::Broker;
use crate::time::{Clock, Timestamp};

use super::listener::{Door, serve_behind};
use pages::{Lists, Page, Pages, ROOT};
use rates::{Ask, Rates};

/// When somebody who was refused for now may try again, in seconds.
const LATER: HeaderValue = HeaderValue::from_static("1");

/// How much strangers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; one more is closed at once.
    pub connections: usize,
    /// Those of one address (of IPv6, the first 64 bits).
    pub connections_per_address: usize,
    /// Requests of one address in a second, and new connections.
    pub requests_per_second: NonZeroU32,
}

/// Serves `broker`'s public half on `listener` until `stop`, and lets requests under way end.
pub async fn serve(
    listener: TcpListener,
    tls: WebTls,
    limits: Limits,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let rates = Arc::new(Rates::new(limits.requests_per_second));
    let door = Guarded {
        tls,
        rates: Arc::clone(&rates),
        connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
        origins: Shares::new(limits.connections_per_address),
    };
    let face = Face { broker, clock, rates, pages: ArcSwapOption::empty(), lists: ArcSwapOption::empty() };
    let router = Router::new().fallback(answer).with_state(Arc::new(face));
    serve_behind(door, listener, router, stop).await;
}

/// TLS, and a share for each address.
struct Guarded {
    tls: WebTls,
    rates: Arc<Rates>,
    connections: Arc<Semaphore>,
    origins: Arc<Shares<Origin>>,
}

impl Door for Guarded {
    type Place = (OwnedSemaphorePermit, Share<Origin>);
    type Stream = TlsStream<TcpStream>;

    fn admit(&self, from: Origin) -> Option<Self::Place> {
        let refused = |limit: &'static str| {
            metrics::counter!("taskpass_limit_reached_total", "limit" => limit).increment(1);
        };
        if !self.rates.admit(Ask::Connection, from) {
            refused("public_connection_rate");
            return None;
        }
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            refused("public_connections");
            return None;
        };
        let share = self.origins.take(&from);
        if share.is_none() {
            refused("public_connections_per_address");
        }
        share.map(|share| (place, share))
    }

    async fn open(&self, tcp: TcpStream) -> io::Result<Self::Stream> {
        tcp.set_nodelay(true)?;
        self.tls.accept(tcp).await
    }

    fn failed(&self, _: &io::Error) {
        metrics::counter!("taskpass_public_handshakes_failed_total").increment(1);
    }
}

struct Face {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    rates: Arc<Rates>,
    pages: ArcSwapOption<Pages>,
    lists: ArcSwapOption<Lists>,
}

async fn answer(State(face): State<Arc<Face>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (page, mut response) = face.respond(&head).await;
    // A body that came with the request is not read: the connection ends with the answer.
    if !body.is_end_stream() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let code = response.status().as_str().to_owned();
    metrics::counter!("taskpass_public_requests_total", "page" => page, "code" => code).increment(1);
    response
}

impl Face {
    /// Which kind of page was asked for, and the answer.
    async fn respond(&self, request: &Parts) -> (&'static str, Response) {
        let from = request.extensions.get::<Origin>().copied();
        if !from.is_some_and(|from| self.rates.admit(Ask::Request, from)) {
            metrics::counter!("taskpass_limit_reached_total", "limit" => "public_request_rate").increment(1);
            return ("none", later(StatusCode::TOO_MANY_REQUESTS, "too many requests\n"));
        }
        let now = self.clock.now();
        if let Some(name) = pages::list_name(request.uri.path()) {
            return self.list(name, request, now);
        }
        let published = self.broker.published(now).await;
        let Some(pages) = self.pages(published.as_ref().ok()) else {
            return ("none", unsure());
        };
        let Some(page) = pages.get(request.uri.path()) else { return ("none", missing()) };
        let answer = match published {
            _ if !is_read(request) => not_that_way(),
            // Seconds, rounded up: a copy is never taken for younger than it is.
            Ok(published) => {
                let age = published.age().as_millis().div_ceil(1000);
                let mut response = give(page, &request.headers, now);
                if let Ok(age) = HeaderValue::from_str(&age.to_string()) {
                    response.headers_mut().insert(header::AGE, age);
                }
                response
            }
            Err(error) => {
                tracing::debug!(error = error.log_line(), "a public page is not given out");
                unsure()
            }
        };
        (page.kind(), answer)
    }

    /// A revocation list, which says itself as of when it is and how long it is good for.
    fn list(&self, name: &str, request: &Parts, now: Timestamp) -> (&'static str, Response) {
        let Ok(lists) = self.broker.revocation_lists(now) else { return ("revocation_list", unsure()) };
        if name == ROOT && lists.lacks_root(now) {
            return ("revocation_list", unsure());
        }
        let known = self.lists.load_full().filter(|known| known.are_of(&lists));
        let known = known.unwrap_or_else(|| {
            let pages = Arc::new(Lists::of(lists));
            self.lists.store(Some(Arc::clone(&pages)));
            pages
        });
        match known.get(name) {
            None => ("none", missing()),
            Some(page) if !is_read(request) => (page.kind(), not_that_way()),
            Some(page) => (page.kind(), give(page, &request.headers, now)),
        }
    }

    /// The pages of this view of the keyring; of the last one that was seen, to know what there is, where it is not known.
    fn pages(&self, published: Option<&crate::ops::Published>) -> Option<Arc<Pages>> {
        let known = self.pages.load_full();
        match (published, known) {
            (None, known) => known,
            (Some(published), Some(known)) if known.are_of(published) => Some(known),
            (Some(published), _) => {
                let ages = (self.broker.key_sets_max_age(), self.broker.refresh_hint());
                let pages = Arc::new(Pages::of(published.clone(), ages));
                self.pages.store(Some(Arc::clone(&pages)));
                Some(pages)
            }
        }
    }
}

/// The page, or that the asker has it already.
fn give(page: &Page, asked: &HeaderMap, now: Timestamp) -> Response {
    let mut response = Response::new(Body::empty());
    if page.is_held(asked) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        *response.body_mut() = Body::from(page.body());
        response.headers_mut().insert(CONTENT_TYPE, page.content_type());
    }
    let headers = response.headers_mut();
    headers.insert(header::ETAG, page.etag());
    headers.insert(CACHE_CONTROL, page.cache_control(now));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn is_read(request: &Parts) -> bool {
    matches!(request.method, Method::GET | Method::HEAD)
}

fn missing() -> Response {
    refusal(StatusCode::NOT_FOUND, "not found\n")
}

fn not_that_way() -> Response {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn refusal(status: StatusCode, why: &'static str) -> Response {
    const PLAIN: [(HeaderName, &str); 3] = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, PLAIN, why).into_response()
}

fn later(status: StatusCode, why: &'static str) -> Response {
    let mut response = refusal(status, why);
    response.headers_mut().insert(RETRY_AFTER, LATER);
    response
}

/// Better nothing than keys that may have been given up.
fn unsure() -> Response {
    later(StatusCode::SERVICE_UNAVAILABLE, "not known to be current: try again\n")
}
