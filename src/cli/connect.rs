//! How a client command reaches the broker: over mTLS with an SVID of its own, and to the one SPIFFE ID that it expects.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::AsyncBufReadExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::args::some_time;
use super::failure::Failure;
use super::input;
use super::output::Output;
use crate::identity::{
    ClientTls, ConnectError, PeerJudge, Side, SpiffeId, SvidFiles, SvidSource, TrustBundle, TrustBundles, Use,
};
use crate::proto;
use crate::proto::credential_service_client::CredentialServiceClient;
use crate::proto::directory_service_client::DirectoryServiceClient;
use crate::proto::key_service_client::KeyServiceClient;
use crate::proto::operator_service_client::OperatorServiceClient;
use crate::proto::task_service_client::TaskServiceClient;
use crate::proto::validation_service_client::ValidationServiceClient;
use crate::time::SystemClock;

/// Where the broker is and who is asking. Each may come from the environment; `--as` takes all of it from a directory that
/// `taskpass dev` made.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// Use this identity of a `taskpass dev` directory: agent, researcher, verifier, payments, operator or platform
    #[arg(long = "as", value_name = "NAME", global = true)]
    identity: Option<String>,

    /// The directory that `taskpass dev` made [env: TASKPASS_DIR, else .taskpass]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,

    /// The broker, as https://HOST:PORT [env: TASKPASS_BROKER]
    #[arg(long, value_name = "URL", global = true)]
    broker: Option<String>,

    /// The SPIFFE ID that the broker must prove [env: TASKPASS_BROKER_ID]
    #[arg(long, value_name = "SPIFFE_ID", global = true)]
    broker_id: Option<String>,

    /// The trust bundle of the broker's trust domain, PEM or SPIFFE JWKS [env: TASKPASS_BUNDLE]
    #[arg(long, value_name = "FILE", global = true)]
    bundle: Option<PathBuf>,

    /// Your X.509-SVID, PEM, leaf first [env: TASKPASS_SVID]
    #[arg(long, value_name = "FILE", global = true)]
    svid: Option<PathBuf>,

    /// Its private key, PEM, not readable by others [env: TASKPASS_SVID_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    svid_key: Option<PathBuf>,

    /// How long to wait for a connection, and for each answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, global = true)]
    timeout: Duration,
}

/// What [`Connection`] comes down to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `https://HOST:PORT`
    pub(super) broker: String,
    /// Who must answer there.
    pub(super) broker_id: SpiffeId,
    /// Trust bundle of the broker's trust domain.
    pub(super) bundle: PathBuf,
    /// Who asks.
    pub(super) svid: SvidFiles,
    /// For the connection, and for each answer.
    pub(super) timeout: Duration,
}

/// `profile.toml` in a directory of `taskpass dev`; the path is relative to that directory.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    broker: String,
    broker_id: String,
    bundle: PathBuf,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(&self, out: Output) -> Result<Client, Failure> {
        Client::connect(&self.resolve()?, out).await
    }

    /// Whether anything says which broker, or as whom.
    pub(super) fn is_given(&self) -> bool {
        let variable = || std::env::var("TASKPASS_BROKER").is_ok_and(|it| !it.is_empty());
        self.identity.is_some() || self.broker.is_some() || variable()
    }

    /// Where and as whom, without connecting.
    pub(super) fn resolve(&self) -> Result<Target, Failure> {
        self.target(|name| std::env::var(name).ok())
    }

    /// What was asked for on the command line, in a profile, in the environment: in this order.
    fn target(&self, env: impl Fn(&str) -> Option<String>) -> Result<Target, Failure> {
        let dir = self.dir.clone().or_else(|| env("TASKPASS_DIR").map(PathBuf::from));
        let dir = dir.unwrap_or_else(|| PathBuf::from(super::sandbox::DEFAULT_DIR));
        let Some(name) = &self.identity else { return self.explicit(env) };
        let profile = profile(&dir)?;
        let broker_id = self.broker_id.clone().unwrap_or(profile.broker_id);
        Ok(Target {
            broker: self.broker.clone().unwrap_or(profile.broker),
            broker_id: spiffe_id(&broker_id)?,
            bundle: self.bundle.clone().unwrap_or_else(|| dir.join(profile.bundle)),
            svid: super::sandbox::known_identity(&dir, name)?,
            timeout: self.timeout,
        })
    }

    fn explicit(&self, env: impl Fn(&str) -> Option<String>) -> Result<Target, Failure> {
        let mut missing = Vec::new();
        let mut take = |given: Option<String>, option: &'static str, variable: &str| {
            let value = given.or_else(|| env(variable)).filter(|value| !value.is_empty());
            if value.is_none() {
                missing.push(option);
            }
            value.unwrap_or_default()
        };
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let broker = take(self.broker.clone(), "--broker", "TASKPASS_BROKER");
        let broker_id = take(self.broker_id.clone(), "--broker-id", "TASKPASS_BROKER_ID");
        let bundle = take(text(&self.bundle), "--bundle", "TASKPASS_BUNDLE");
        let certificate = take(text(&self.svid), "--svid", "TASKPASS_SVID");
        let key = take(text(&self.svid_key), "--svid-key", "TASKPASS_SVID_KEY");
        if !missing.is_empty() {
            return Err(Failure::usage(format_args!("missing: {}", missing.join(", "))).hint(
                "With a broker of `taskpass dev`, say --as agent, --as verifier or --as operator instead.",
            ));
        }
        Ok(Target {
            broker,
            broker_id: spiffe_id(&broker_id)?,
            bundle: bundle.into(),
            svid: SvidFiles { certificate: certificate.into(), key: key.into() },
            timeout: self.timeout,
        })
    }
}

fn profile(dir: &Path) -> Result<Profile, Failure> {
    let path = dir.join(super::sandbox::PROFILE);
    let text = std::fs::read_to_string(&path).map_err(|why| {
        Failure::usage(format_args!("{}: {why}", path.display()))
            .hint("Start `taskpass dev` in this directory first, or name its directory with --dir.")
    })?;
    toml::from_str(&text).map_err(|why| Failure::usage(format_args!("{}: {why}", path.display())))
}

fn spiffe_id(text: &str) -> Result<SpiffeId, Failure> {
    text.parse().map_err(|why| Failure::usage(format_args!("the broker's SPIFFE ID {text:?} {why}")))
}

/// A connection to a broker that has proven to be the one expected.
#[derive(Clone, Debug)]
pub(super) struct Client {
    channel: Channel,
    timeout: Duration,
    broker: String,
    out: Output,
}

impl Client {
    /// Connects once; the connection is not made anew when it breaks.
    pub(super) async fn connect(target: &Target, out: Output) -> Result<Self, Failure> {
        let uri: Uri = target.broker.parse().map_err(|why| bad_url(&target.broker, &why))?;
        if uri.scheme_str() != Some("https") || uri.path() != "/" || uri.query().is_some() {
            return Err(bad_url(&target.broker, &"it must be https://HOST:PORT"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let unavailable = |why: &dyn std::fmt::Display| {
            Failure::unavailable(format_args!("no connection to {}: {why}", target.broker))
        };
        let tls = tls(target)?;
        let connecting = tokio::time::timeout(target.timeout, admitted(&tls, &host, port));
        let stream = match out.patiently(&format!("a connection to {}", target.broker), connecting).await {
            Err(_) => return Err(unavailable(&format_args!("nothing heard within {:?}", target.timeout))),
            Ok(Err(ConnectError::Io(why))) => {
                return Err(alert(&why).map_or_else(|| unavailable(&why), Failure::turned_away_by));
            }
            Ok(Err(refused @ ConnectError::Refused(_))) => {
                return Err(Failure::failed(format_args!("{}: {refused}", target.broker))
                    .hint(format_args!("It was expected to prove {}.", target.broker_id)));
            }
            Ok(Ok(stream)) => stream,
        };
        let channel = over(uri, stream).await.map_err(|why| unavailable(&why))?;
        Ok(Self { channel, timeout: target.timeout, broker: target.broker.clone(), out })
    }

    /// The connection itself, for calls that are to cost nothing beside what they cost.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Sends `message`; `send` is the call. Nothing is waited for longer than the time-out.
    async fn call<M, A, F>(&self, message: M, send: impl FnOnce(Request<M>) -> F) -> Result<A, Failure>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        let what = format!("an answer of {}", self.broker);
        match self.out.patiently(&what, tokio::time::timeout(self.timeout, send(request))).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Failure::unavailable(format_args!("no answer within {:?}", self.timeout))
                .hint("It may have been done all the same: look before you try again.")),
        }
    }
}

/// The longest answer that is taken, in bytes: a revocation list can be long.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// One method for each RPC.
macro_rules! calls {
    ($($service:ident { $($name:ident($request:ident) -> $answer:ident;)* })*) => {
        impl Client {$($(
            pub(super) async fn $name(&self, message: proto::$request) -> Result<proto::$answer, Failure> {
                let mut service = $service::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
                self.call(message, |request| async move { service.$name(request).await }).await
            }
        )*)*}
    };
}

calls! {
    TaskServiceClient {
        begin_task(BeginTaskRequest) -> BeginTaskResponse;
        get_task(GetTaskRequest) -> GetTaskResponse;
        list_tasks(ListTasksRequest) -> ListTasksResponse;
        extend_task(ExtendTaskRequest) -> ExtendTaskResponse;
        complete_task(CompleteTaskRequest) -> CompleteTaskResponse;
    }
    CredentialServiceClient {
        mint_token(MintTokenRequest) -> MintTokenResponse;
        issue_certificate(IssueCertificateRequest) -> IssueCertificateResponse;
        list_credentials(ListCredentialsRequest) -> ListCredentialsResponse;
        revoke_credential(RevokeCredentialRequest) -> RevokeCredentialResponse;
    }
    ValidationServiceClient {
        validate(ValidateRequest) -> ValidateResponse;
    }
    OperatorServiceClient {
        revoke_task(RevokeTaskRequest) -> RevokeTaskResponse;
        revoke_workload(RevokeWorkloadRequest) -> RevokeWorkloadResponse;
        revoke_trust_domain(RevokeTrustDomainRequest) -> RevokeTrustDomainResponse;
    }
    KeyServiceClient {
        list_keys(ListKeysRequest) -> ListKeysResponse;
        rotate_key(RotateKeyRequest) -> RotateKeyResponse;
        activate_key(ActivateKeyRequest) -> ActivateKeyResponse;
        retire_key(RetireKeyRequest) -> RetireKeyResponse;
        compromise_key(CompromiseKeyRequest) -> CompromiseKeyResponse;
        list_affected_tasks(ListAffectedTasksRequest) -> ListAffectedTasksResponse;
        request_task_ca_certificate(RequestTaskCaCertificateRequest) -> RequestTaskCaCertificateResponse;
        install_task_ca_certificate(InstallTaskCaCertificateRequest) -> InstallTaskCaCertificateResponse;
        show_task_ca(ShowTaskCaRequest) -> ShowTaskCaResponse;
    }
    DirectoryServiceClient {
        list_audiences(ListAudiencesRequest) -> ListAudiencesResponse;
        get_key_set(GetKeySetRequest) -> GetKeySetResponse;
        get_task_ca_bundle(GetTaskCaBundleRequest) -> GetTaskCaBundleResponse;
        get_revocation_list(GetRevocationListRequest) -> GetRevocationListResponse;
    }
}

fn bad_url(url: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format_args!("the broker's address {url:?}: {why}"))
}

fn tls(target: &Target) -> Result<ClientTls, Failure> {
    let clock = Arc::new(SystemClock);
    let svid = SvidSource::open(target.svid.clone(), Use::Client, clock.clone())
        .map_err(|why| Failure::at("your certificate", why))?;
    let trust_domain = target.broker_id.trust_domain().clone();
    let bundle = TrustBundle::parse(trust_domain, &input::bytes(&target.bundle)?)
        .map_err(|why| Failure::at(target.bundle.display(), why))?;
    if bundle.is_empty() {
        return Err(Failure::at(target.bundle.display(), "no certificate in it can be an anchor"));
    }
    let judge = Arc::new(PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Server));
    ClientTls::new(svid.current(), judge, target.broker_id.clone(), clock)
        .map_err(|why| Failure::at("TLS", why))
}

type Stream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Connects and waits for the first bytes of the other side. A client's handshake is complete before its certificate has been
/// judged, and an HTTP/2 server speaks first: what comes are its settings, or the alert that says no.
async fn admitted(tls: &ClientTls, host: &str, port: u16) -> Result<Stream, ConnectError> {
    let mut stream = tls.connect((host, port)).await?;
    if stream.fill_buf().await.map_err(ConnectError::Io)?.is_empty() {
        return Err(ConnectError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(stream)
}

/// The alert by which the other side ended the connection, if it did.
fn alert(error: &std::io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// HTTP/2 over a stream that is connected already.
async fn over(uri: Uri, stream: Stream) -> Result<Channel, tonic::transport::Error> {
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("the connection was closed")))
    });
    Endpoint::from(uri).connect_with_connector(connector).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        connection: Connection,
    }

    fn target(args: &[&str], env: &[(&str, &str)]) -> Result<Target, Failure> {
        let line = Line::try_parse_from([&["x"], args].concat()).unwrap();
        line.connection.target(|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const ENV: [(&str, &str); 5] = [
        ("TASKPASS_BROKER", "https://b:1"),
        ("TASKPASS_BROKER_ID", "spiffe://b.test/broker"),
        ("TASKPASS_BUNDLE", "b.pem"),
        ("TASKPASS_SVID", "me.pem"),
        ("TASKPASS_SVID_KEY", "me.key"),
    ];

    #[test]
    fn everything_may_come_from_the_environment_and_options_win() {
        let found = target(&["--broker", "https://other:2"], &ENV).unwrap();
        assert_eq!(found.broker, "https://other:2");
        assert_eq!(found.svid.key, Path::new("me.key"));
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let failure = target(&["--svid", "x"], &ENV[..2]).unwrap_err();
        assert_eq!(failure.exit(), crate::cli::failure::Exit::Usage);
        assert!(failure.to_string().contains("--bundle, --svid-key"), "{failure}");
    }

    #[test]
    fn a_profile_is_not_mixed_with_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let text = "broker = \"https://127.0.0.1:5\"\nbroker_id = \"spiffe://b.test/b\"\nbundle = \"bundles/b.pem\"\n";
        std::fs::write(dir.path().join("profile.toml"), text).unwrap();
        std::fs::create_dir(dir.path().join("identities")).unwrap();
        std::fs::write(dir.path().join("identities/agent.pem"), "").unwrap();
        let found = target(&["--as", "agent", "--dir", dir.path().to_str().unwrap()], &ENV).unwrap();
        assert_eq!(found.broker, "https://127.0.0.1:5");
        assert_eq!(found.bundle, dir.path().join("bundles/b.pem"));
        assert_eq!(found.svid.certificate, dir.path().join("identities/agent.pem"));
    }

    #[test]
    fn the_name_of_an_identity_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let text = "broker = \"https://h:5\"\nbroker_id = \"spiffe://b.test/b\"\nbundle = \"b\"\n";
        std::fs::write(dir.path().join("profile.toml"), text).unwrap();
        std::fs::write(dir.path().join("agent.pem"), "").unwrap();
        std::fs::create_dir(dir.path().join("identities")).unwrap();
        let failure = target(&["--as", "../agent", "--dir", dir.path().to_str().unwrap()], &[]).unwrap_err();
        assert_eq!(failure.exit(), crate::cli::failure::Exit::Usage);
    }

    #[tokio::test]
    async fn plain_http_is_refused_before_anything_is_sent() {
        let target = Target {
            broker: "http://127.0.0.1:1".into(),
            broker_id: "spiffe://b.test/b".parse().unwrap(),
            bundle: "b".into(),
            svid: SvidFiles { certificate: "c".into(), key: "k".into() },
            timeout: Duration::from_secs(1),
        };
        assert_eq!(
            Client::connect(&target, Output::new(false)).await.unwrap_err().exit(),
            crate::cli::failure::Exit::Usage
        );
    }
}
