//! `taskpass token ...`: mint, validate, verify, revoke.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::Wait;
use super::args::{duration, proto_duration, sha256};
use super::cert::{first_certificate, thumbprint};
use super::connect::{Client, Connection};
use super::credential::revoke;
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, inline, note};
use super::verify::Verify;
use super::{input, render};
use crate::proto;
use crate::time::{Clock as _, SystemClock};

/// Mint tokens, ask whether they are good, revoke them
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mint a token for one audience of a task; prints the token alone
    Mint(Mint),
    /// For verifiers: is this token good, now? Exit code 4 if it is not
    Validate(Validate),
    /// Judge a token offline and say why it is refused; whether its task has ended stays unknown. Exit code 1 if it is refused
    Verify(Box<Verify>),
    /// End one token and leave its task alive
    Revoke {
        /// Its `jti`, as mint and `credential list` show it
        #[arg(value_name = "CREDENTIAL")]
        credential: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Args)]
struct Mint {
    /// The task
    #[arg(long, value_name = "TASK")]
    task: String,
    /// An audience that the task has a grant for
    #[arg(long, value_name = "URI")]
    audience: String,
    /// Only these of the granted tools; may be repeated
    #[arg(long = "tool", value_name = "NAME")]
    tools: Vec<String>,
    /// How long it lives; policy, the task and your certificate may cut it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    lifetime: Option<Duration>,
    /// Rather an error than a token that lives shorter than this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    minimum_lifetime: Option<Duration>,
    /// Bind it to this certificate of the task (PEM) instead of your own; for audiences with profile x5t#S256
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Bind it to this DPoP key: its RFC 7638 thumbprint; for audiences with profile jkt
    #[arg(long, value_name = "SHA256", value_parser = sha256)]
    dpop_thumbprint: Option<[u8; 32]>,
}

#[derive(Debug, Args)]
struct Validate {
    /// The audience that you verify for
    #[arg(long, value_name = "URI")]
    audience: String,
    /// The file that holds the token; - for standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    token: PathBuf,
    /// The certificate (PEM) that its bearer showed you; for audiences with profile x5t#S256
    #[arg(long, value_name = "FILE")]
    presented_cert: Option<PathBuf>,
    /// The thumbprint of the DPoP key that its bearer proved; for audiences with profile jkt
    #[arg(long, value_name = "SHA256", value_parser = sha256)]
    presented_dpop_thumbprint: Option<[u8; 32]>,
}

impl Token {
    pub(super) async fn run(self, out: Output) -> Outcome {
        match self.verb {
            Verb::Mint(mint) => {
                let request = mint.request()?;
                minted(&self.connection.open(out).await?, request, out).await
            }
            Verb::Validate(validate) => {
                let request = validate.request()?;
                ask(&self.connection.open(out).await?, request, out).await
            }
            Verb::Verify(verify) => verify.run(&self.connection, out).await,
            Verb::Revoke { credential, wait } => {
                revoke(&self.connection.open(out).await?, credential, &wait, out).await
            }
        }
    }
}

impl Mint {
    fn request(self) -> Result<proto::MintTokenRequest, Failure> {
        let certificate = self.cert.map(|file| first_certificate(&file)).transpose()?;
        Ok(proto::MintTokenRequest {
            task_id: self.task,
            audience: self.audience,
            tools: self.tools,
            lifetime: self.lifetime.map(proto_duration),
            minimum_lifetime: self.minimum_lifetime.map(proto_duration),
            certificate_der: certificate.map(|der| der.to_vec().into()).unwrap_or_default(),
            dpop_jwk_sha256: self.dpop_thumbprint.map(|it| it.to_vec().into()).unwrap_or_default(),
        })
    }
}

/// For people the token goes to standard output alone, so that it can be piped on; what there is to know of it goes to standard error.
async fn minted(client: &Client, request: proto::MintTokenRequest, out: Output) -> Outcome {
    let answer = client.mint_token(request).await?;
    if !out.is_json() {
        let now = SystemClock.now();
        note(format_args!(
            "{} token {} expires {}; {}",
            inline(&answer.token_type),
            inline(&answer.credential_id),
            render::when(answer.expires_at.as_ref(), now),
            inline(&answer.scope),
        ));
    }
    out.answer(|| render::token(&answer), || inline(&answer.token)).map(|()| Exit::Done)
}

impl Validate {
    fn request(self) -> Result<proto::ValidateRequest, Failure> {
        let certificate = self.presented_cert.map(|file| first_certificate(&file)).transpose()?;
        let token = input::text(&self.token, "the token")?;
        Ok(proto::ValidateRequest {
            audience: self.audience,
            credential: Some(proto::validate_request::Credential::Token(token.trim().to_owned())),
            presented_certificate_sha256: certificate
                .map(|der| thumbprint(&der).to_vec().into())
                .unwrap_or_default(),
            presented_dpop_jwk_sha256: self
                .presented_dpop_thumbprint
                .map(|it| it.to_vec().into())
                .unwrap_or_default(),
            certificate_authority_jwk_sha256: Vec::new().into(),
        })
    }
}

/// Asks for a verdict and shows it.
pub(super) async fn ask(client: &Client, request: proto::ValidateRequest, out: Output) -> Outcome {
    let verdict = client.validate(request).await?;
    let now = SystemClock.now();
    out.answer(|| render::verdict(&verdict), || render::verdict_text(&verdict, now))?;
    Ok(if verdict.active { Exit::Done } else { Exit::Inactive })
}
