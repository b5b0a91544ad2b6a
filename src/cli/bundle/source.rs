//! Where a bundle is had from: the broker, a bundle endpoint, a file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::Format;
use crate::cli::connect::{Client, Connection, Target};
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::cli::output::{Output, plain};
use crate::identity::{
    BundleEndpoint, EndpointUrl, Federation, Profile, Published, TrustBundle, TrustDomain,
};
use crate::keys::publish::pem;
use crate::proto;
use crate::time::{Clock, SystemClock};

/// The most that is read of a file, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct From {
    /// A SPIFFE bundle endpoint, instead of the broker
    #[arg(long, value_name = "URL", requires = "trust_domain", conflicts_with = "file")]
    url: Option<String>,
    /// A file, PEM or SPIFFE bundle format, instead of the broker
    #[arg(long, value_name = "FILE", requires = "trust_domain")]
    file: Option<PathBuf>,
    /// Whose bundle --url or --file has: a bundle never names itself
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// The authorities that may vouch for --url, PEM, instead of the system's
    #[arg(long, value_name = "FILE", requires = "url", conflicts_with = "endpoint_spiffe_id")]
    ca_file: Option<PathBuf>,
    /// --url proves itself by an X.509-SVID (`https_spiffe`): whose
    #[arg(long, value_name = "SPIFFE_ID", requires_all = ["url", "endpoint_bundle"])]
    endpoint_spiffe_id: Option<String>,
    /// The trust bundle of the trust domain in --endpoint-spiffe-id
    #[arg(long, value_name = "FILE", requires = "endpoint_spiffe_id")]
    endpoint_bundle: Option<PathBuf>,
    /// Go nowhere else when --url says so
    #[arg(long, requires = "url")]
    no_redirects: bool,
    #[command(flatten)]
    connection: Connection,
}

impl From {
    /// Reads what there is to be read, and asks nobody.
    pub(super) fn source(self) -> Result<Source, Failure> {
        let trust_domain = self.trust_domain.as_deref().map(TrustDomain::from_config).transpose();
        let trust_domain =
            trust_domain.map_err(|why| Failure::usage(format_args!("--trust-domain {why}")))?;
        match (&self.url, &self.file, trust_domain) {
            (Some(url), _, Some(trust_domain)) => {
                self.endpoint(url, trust_domain).map(|it| Source::Endpoint(Box::new(it)))
            }
            (None, Some(file), Some(trust_domain)) => Ok(Source::File(file.clone(), trust_domain)),
            (None, None, None) => self.connection.resolve().map(|it| Source::Broker(Box::new(it))),
            _ => Err(Failure::usage(
                "--trust-domain goes with --url or --file: the broker's own bundle is asked for without it",
            )),
        }
    }

    fn endpoint(&self, url: &str, trust_domain: TrustDomain) -> Result<Asked, Failure> {
        let url: EndpointUrl = url.parse().map_err(|why| Failure::usage(format_args!("--url: {why}")))?;
        let (profile, by) = match (&self.endpoint_spiffe_id, &self.endpoint_bundle) {
            (Some(id), Some(file)) => {
                let endpoint: crate::identity::SpiffeId =
                    id.parse().map_err(|why| Failure::usage(format_args!("--endpoint-spiffe-id {why}")))?;
                let by = parse_file(file, endpoint.trust_domain())?.published.bundle;
                if by.is_empty() {
                    return Err(Failure::at(file.display(), "no certificate in it can be an anchor"));
                }
                (Profile::Spiffe { endpoint }, Some(by))
            }
            _ => (Profile::Web { ca_file: self.ca_file.clone() }, None),
        };
        let endpoint =
            Federation { url, profile, follow_redirects: !self.no_redirects, keep_for: Duration::MAX };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let endpoint = BundleEndpoint::alone(trust_domain.clone(), endpoint, by, &clock);
        Ok(Asked { endpoint, trust_domain })
    }
}

/// A bundle endpoint, and whose bundle it has.
pub(super) struct Asked {
    endpoint: BundleEndpoint,
    trust_domain: TrustDomain,
}

pub(super) enum Source {
    Broker(Box<Target>),
    Endpoint(Box<Asked>),
    File(PathBuf, TrustDomain),
}

/// A bundle, and the text that it came as.
pub(super) struct Read {
    pub(super) trust_domain: TrustDomain,
    pub(super) published: Published,
    /// In the SPIFFE bundle format; nothing where it came as PEM, which knows no sequence.
    spiffe: Option<String>,
}

impl Source {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Broker(target) => target.broker.clone(),
            Self::Endpoint(asked) => asked.endpoint.url().to_string(),
            Self::File(file, _) => file.display().to_string(),
        }
    }

    pub(super) const fn is_broker(&self) -> bool {
        matches!(self, Self::Broker(_))
    }

    /// What it has now. What an endpoint gives after that is held against what it gave before.
    pub(super) async fn read(&mut self, out: Output) -> Result<Read, Failure> {
        match self {
            Self::Broker(target) => of_broker(&Client::connect(target, out).await?).await,
            Self::Endpoint(asked) => {
                let what = format!("an answer of {}", asked.endpoint.url());
                let fetched = out.patiently(&what, asked.endpoint.ask()).await.map_err(|why| {
                    let words = format_args!("{}: {why}", asked.endpoint.url());
                    if why.is_absence() { Failure::unavailable(words) } else { Failure::failed(words) }
                })?;
                let taken = asked.endpoint.take(&fetched.body);
                let published = taken.map_err(|why| Failure::at(asked.endpoint.url(), why))?;
                let spiffe = String::from_utf8(fetched.body).ok();
                Ok(Read { trust_domain: asked.trust_domain.clone(), published, spiffe })
            }
            Self::File(file, trust_domain) => parse_file(file, trust_domain),
        }
    }

    /// The issuers of the audiences that the broker shows us, each with its trust domain: none where it shows none.
    pub(super) async fn issuers(&self, out: Output) -> BTreeSet<(String, String)> {
        let Self::Broker(target) = self else { return BTreeSet::new() };
        let Ok(client) = Client::connect(target, out).await else { return BTreeSet::new() };
        let known = client.list_audiences(proto::ListAudiencesRequest {}).await.unwrap_or_default();
        known.audiences.into_iter().map(|it| (it.trust_domain, it.issuer)).collect()
    }
}

/// The broker's own: what task certificates lead to.
pub(super) async fn of_broker(client: &Client) -> Result<Read, Failure> {
    let answer = client.get_task_ca_bundle(proto::GetTaskCaBundleRequest {}).await?;
    let bad = |why: &dyn std::fmt::Display| Failure::at("the broker's bundle", why);
    let trust_domain: TrustDomain = answer.trust_domain.parse().map_err(|why| bad(&why))?;
    let published = TrustBundle::published(trust_domain.clone(), answer.spiffe_bundle_json.as_bytes());
    let published = published.map_err(|why| bad(&why))?;
    Ok(Read { trust_domain, published, spiffe: Some(answer.spiffe_bundle_json) })
}

fn parse_file(file: &Path, trust_domain: &TrustDomain) -> Result<Read, Failure> {
    let bytes = input::bytes(file)?;
    if bytes.len() >= MAX_BYTES {
        return Err(Failure::at(file.display(), "it is 1 MiB or larger"));
    }
    let trust_domain = trust_domain.clone();
    let of = trust_domain.clone();
    let parsed = match bytes.trim_ascii_start().first() {
        Some(b'{') => {
            TrustBundle::published(of, &bytes).map(|it| (it, String::from_utf8(bytes.clone()).ok()))
        }
        _ => TrustBundle::parse(of, &bytes).map(|bundle| {
            (Published { bundle, sequence: None, refresh_hint: None, others: Vec::new() }, None)
        }),
    };
    let (published, spiffe) = parsed.map_err(|why| Failure::at(file.display(), why))?;
    Ok(Read { trust_domain, published, spiffe })
}

impl Read {
    /// The authorities for X509-SVIDs.
    pub(super) fn pem(&self) -> String {
        self.published.bundle.certificates().iter().map(|it| pem("CERTIFICATE", it)).collect()
    }

    /// As it came, if it came so.
    pub(super) fn spiffe(&self) -> Option<&str> {
        self.spiffe.as_deref()
    }

    pub(super) fn text(&self, format: Format) -> Result<String, Failure> {
        match format {
            Format::Pem => Ok(self.pem()),
            Format::Spiffe => self.spiffe.clone().ok_or_else(|| {
                Failure::usage(
                    "it is PEM, which has no sequence: a bundle in the SPIFFE format cannot be made of it",
                )
                .hint("Say --format pem.")
            }),
        }
    }

    /// The same for a terminal.
    pub(super) fn shown(&self, format: Format) -> Result<String, Failure> {
        let text = self.text(format)?;
        match plain(&text.replace(['\n', '\r', '\t'], "")) == text.replace(['\n', '\r', '\t'], "") {
            true => Ok(text),
            false => Err(Failure::failed("there are control characters in it, which a terminal might obey")
                .hint("Write it to a file by --out.")),
        }
    }
}
