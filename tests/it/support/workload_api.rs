//! A Workload API on a socket of this machine that says what a test wants. Its messages are put together here, field by field, so that they can be wrong.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

use super::ca::{Ca, Svid};
use super::raw::Bytes;

/// `X509SVIDResponse` of the SPIFFE Workload API.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Svids {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<Entry>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// `X509SVID`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    pub hint: String,
}

/// `X509BundlesResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bundles {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "2")]
    pub bundles: HashMap<String, Vec<u8>>,
}

impl Entry {
    /// What an agent gives for this SVID, whose trust domain has this authority.
    pub fn new(id: &str, svid: &Svid, ca: &Ca) -> Self {
        Self {
            spiffe_id: id.to_owned(),
            x509_svid: svid.chain.iter().flat_map(|it| it.to_vec()).collect(),
            x509_svid_key: svid.key.serialize_der(),
            bundle: ca.der().to_vec(),
            hint: String::new(),
        }
    }

    #[must_use]
    pub fn hint(self, hint: &str) -> Self {
        Self { hint: hint.to_owned(), ..self }
    }
}

/// All that an agent knows.
#[derive(Clone, Default)]
pub struct State {
    pub svids: Vec<Entry>,
    pub bundles: BTreeMap<String, Vec<u8>>,
    pub crl: Vec<Vec<u8>>,
}

impl State {
    #[must_use]
    pub fn svid(mut self, entry: Entry) -> Self {
        self.svids.push(entry);
        self
    }

    /// The bundle of a trust domain, from these authorities of it.
    #[must_use]
    pub fn bundle(mut self, trust_domain: &str, of: &[&Ca]) -> Self {
        let ders = of.iter().flat_map(|ca| ca.der().to_vec()).collect();
        self.bundles.insert(format!("spiffe://{trust_domain}"), ders);
        self
    }

    fn message(&self, method: &str) -> Vec<u8> {
        let bundles = self.bundles.clone().into_iter().collect();
        match method {
            "FetchX509SVID" => {
                let svids = self.svids.clone();
                Svids { svids, crl: self.crl.clone(), federated_bundles: bundles }.encode_to_vec()
            }
            "FetchX509Bundles" => Bundles { crl: self.crl.clone(), bundles }.encode_to_vec(),
            other => panic!("{other} is not asked for"),
        }
    }
}

/// What an agent answers, at once and whenever it changes.
#[derive(Clone)]
pub enum Says {
    State(State),
    /// Bytes that are whatever they are.
    Garbage(Vec<u8>),
    Status(Code, &'static str),
    /// Streams that are open are denied everything, and new ones hear this, if there is something.
    Denied(Option<State>),
    /// The end of the stream.
    End,
    /// Nothing.
    Silence,
}

struct Inner {
    says: watch::Sender<Says>,
    calls: Mutex<Vec<(String, Option<String>)>>,
    gone: CancellationToken,
}

/// It is gone with this value, and its socket with it.
pub struct WorkloadApi {
    path: PathBuf,
    inner: Arc<Inner>,
}

impl WorkloadApi {
    /// At this path, where nothing is yet.
    pub fn at(path: &Path, says: Says) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        Self::serve(path.to_owned(), incoming, says)
    }

    /// At a port of this machine.
    pub async fn tcp(says: Says) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        (Self::serve(PathBuf::new(), incoming, says), address)
    }

    fn serve<S>(
        path: PathBuf,
        incoming: impl Stream<Item = std::io::Result<S>> + Send + 'static,
        says: Says,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let inner = Arc::new(Inner {
            says: watch::Sender::new(says),
            calls: Mutex::new(Vec::new()),
            gone: CancellationToken::new(),
        });
        let (service, gone) = (Api(Arc::clone(&inner)), inner.gone.clone());
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, gone.cancelled_owned()).await
        });
        Self { path, inner }
    }

    pub fn says(&self, says: Says) {
        self.inner.says.send_replace(says);
    }

    pub fn state(&self, state: State) {
        self.says(Says::State(state));
    }

    /// The calls so far: which method, and what the security header said.
    pub fn calls(&self) -> Vec<(String, Option<String>)> {
        self.inner.calls.lock().unwrap().clone()
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.inner.gone.cancel();
        drop(std::fs::remove_file(&self.path));
    }
}

#[derive(Clone)]
struct Api(Arc<Inner>);

impl NamedService for Api {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl tower::Service<http::Request<Body>> for Api {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let header = request.headers().get("workload.spiffe.io").map(|it| it.to_str().unwrap().to_owned());
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            inner.calls.lock().unwrap().push((method.clone(), header.clone()));
            Ok(Grpc::new(Bytes).server_streaming(Method { inner, method, header }, request).await)
        })
    }
}

struct Method {
    inner: Arc<Inner>,
    method: String,
    header: Option<String>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Status>> + Send>>;

impl ServerStreamingService<Vec<u8>> for Method {
    type Response = Vec<u8>;
    type ResponseStream = Messages;
    type Future = Answering<Result<Response<Messages>, Status>>;

    fn call(&mut self, _: Request<Vec<u8>>) -> Self::Future {
        if self.header.as_deref() != Some("true") {
            return Box::pin(async { Err(Status::invalid_argument("security header missing")) });
        }
        let (inner, method) = (Arc::clone(&self.inner), self.method.clone());
        let news = tokio_stream::wrappers::WatchStream::new(inner.says.subscribe());
        let mut opened = false;
        let messages = news.filter_map(move |says| match (says, std::mem::replace(&mut opened, true)) {
            (Says::Denied(_), true) => Some(Some(Err(Status::permission_denied("no identity issued")))),
            (Says::Denied(state), false) => state.map(|it| Some(Ok(it.message(&method)))),
            (says, _) => match says {
                Says::State(state) => Some(Some(Ok(state.message(&method)))),
                Says::Garbage(bytes) => Some(Some(Ok(bytes))),
                Says::Status(code, why) => Some(Some(Err(Status::new(code, why)))),
                Says::End => Some(None),
                Says::Silence | Says::Denied(_) => None,
            },
        });
        let messages = messages.map_while(|it| it);
        let gone = inner.gone.clone();
        let until_gone = futures_util::StreamExt::take_until(messages, gone.cancelled_owned());
        Box::pin(async move { Ok(Response::new(Box::pin(until_gone) as Messages)) })
    }
}
