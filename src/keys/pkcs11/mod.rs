//! A PKCS#11 token: hardware that holds keys and does not give them out, reached by a library that its maker gives (the module). The only place that calls one.
//!
//! Such calls block, for as long as the module likes: they run on threads of their own ([`pool`]), each with a session ([`conn`]), and whoever asks waits for a limited time. A call that fails or
//! does not come back leaves a mark: until a probe goes well again everybody is told so at once, and nobody waits. Who finds no session free is told that, and leaves none.

mod conn;
mod kek;
mod objects;
mod pool;
mod signer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use taskpass_verifier::keyset::{Algorithm, VerificationKey};

use self::conn::{Conn, Fault, Module, Open};
use self::pool::{Lost, Pool};
use super::hardware::{Hardware, HardwareError, Held, MadeInHardware};
use super::pin::Pin;
use super::signer::Signer;
use super::wrap::KeyWrapper;

use kek::TokenKek;

/// Which token, and how it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The library that its maker gives.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// Its serial number, where several have that label.
    pub serial: Option<String>,
    /// Of its user.
    pub pin: Pin,
    /// How long a call may take, and how long one waits for a session before it.
    pub timeout: Duration,
    /// Calls at a time: each has a thread and a session.
    pub sessions: usize,
}

/// One token. Clones are the same one.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    id: String,
    timeout: Duration,
    pool: Pool<Conn>,
    health: Mutex<Result<(), HardwareError>>,
    /// Keys that are not there, or are not as they have to be, since they were asked for last.
    unfit: Mutex<BTreeMap<Arc<[u8]>, HardwareError>>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.0.id)
    }
}

impl Token {
    /// Starts the threads. The token is asked for nothing yet.
    pub fn new(settings: Settings) -> Result<Self, HardwareError> {
        let (id, timeout) = (format!("pkcs11:token={}", settings.token), settings.timeout);
        let sessions = settings.sessions.max(1);
        let module = Arc::new(Module::new(settings));
        let pool = Pool::start(sessions, timeout, move || Conn::new(Arc::clone(&module)));
        let pool =
            pool.map_err(|error| HardwareError::Unfit(format!("its threads do not start: {error}")))?;
        Ok(Self(Arc::new(Inner { id, timeout, pool, health: Mutex::new(Ok(())), unfit: Mutex::default() })))
    }

    /// Asks the token, unless it is known not to answer.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        what: impl Fn(&mut Open) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HardwareError> {
        self.health()?;
        self.ask(name, what).await
    }

    /// Asks it in any case.
    async fn ask<T: Send + 'static>(
        &self,
        name: &'static str,
        what: impl Fn(&mut Open) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HardwareError> {
        let began = Instant::now();
        let asked = self.0.pool.run(move |conn| conn.call(&what)).await;
        let answer = asked.unwrap_or_else(|lost| Err(self.lost(lost)));
        let outcome = match &answer {
            Ok(_) => "done",
            Err(HardwareError::Busy(_)) => "busy",
            Err(HardwareError::Unavailable(_)) => "unanswered",
            Err(_) => "refused",
        };
        metrics::counter!("taskpass_pkcs11_calls_total", "call" => name, "outcome" => outcome).increment(1);
        metrics::histogram!("taskpass_pkcs11_seconds", "call" => name).record(began.elapsed().as_secs_f64());
        metrics::gauge!("taskpass_pkcs11_stuck_calls").set(self.0.pool.stuck() as f64);
        match &answer {
            // It was not asked.
            Err(HardwareError::Busy(_)) => {}
            answer => self.note(answer.as_ref().map(drop)),
        }
        answer
    }

    /// Whether a key has signed when it was asked last, or was not asked yet.
    fn is_good(&self, reference: &[u8]) -> Result<(), HardwareError> {
        let unfit = self.0.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        unfit.get(reference).map_or(Ok(()), |error| Err(error.clone()))
    }

    fn remember<T>(&self, reference: &Arc<[u8]>, answer: &Result<T, HardwareError>) {
        let mut unfit = self.0.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(error @ HardwareError::Unfit(_)) => drop(unfit.insert(Arc::clone(reference), error.clone())),
            Err(HardwareError::Busy(_)) => {}
            _ => drop(unfit.remove(reference)),
        }
    }

    fn lost(&self, lost: Lost) -> HardwareError {
        let timeout = humantime::format_duration(self.0.timeout);
        HardwareError::Unavailable(match lost {
            Lost::Busy => return HardwareError::Busy(format!("none was free within {timeout}")),
            Lost::TooSlow => format!("a call did not come back within {timeout}"),
            Lost::Hung => {
                format!("none of {} calls has come back within {timeout}", self.0.pool.stuck())
            }
            Lost::Gone => "it is not asked any more".to_owned(),
        })
    }

    /// What the last call has shown. One that says what is wrong with a key is an answer, too.
    fn note(&self, answer: Result<(), &HardwareError>) {
        let found = match answer {
            Ok(()) | Err(HardwareError::Unfit(_) | HardwareError::DoesNotOpen) => Ok(()),
            Err(error) => Err(error.clone()),
        };
        let before = {
            let mut health = self.0.health.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *health, found.clone())
        };
        metrics::gauge!("taskpass_pkcs11_up").set(if found.is_ok() { 1.0 } else { 0.0 });
        match (before, found) {
            (Ok(()), Err(error)) => {
                tracing::error!(token = self.0.id, %error, "the PKCS#11 token is not at hand")
            }
            (Err(_), Ok(())) => tracing::info!(token = self.0.id, "the PKCS#11 token is at hand again"),
            (Err(before), Err(error)) if before != error => {
                tracing::warn!(token = self.0.id, %error, "the PKCS#11 token is not at hand still");
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Hardware for Token {
    fn id(&self) -> String {
        self.0.id.clone()
    }

    fn health(&self) -> Result<(), HardwareError> {
        self.0.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn probe(&self) -> Result<(), HardwareError> {
        self.ask("probe", |open| open.check()).await
    }

    async fn wrapper(&self, label: &str) -> Result<Arc<dyn KeyWrapper>, HardwareError> {
        Ok(Arc::new(TokenKek::open(self, label).await?))
    }

    async fn create_kek(&self, label: &str) -> Result<bool, HardwareError> {
        let label = label.to_owned();
        self.call("make", move |open| objects::make_kek(open, &label)).await
    }

    async fn make(&self, label: &str) -> Result<MadeInHardware, HardwareError> {
        let reference = objects::random_reference().map_err(|_| {
            HardwareError::Unfit("no name for a new key: the system's random source failed".to_owned())
        })?;
        let label = label.to_owned();
        let public = self.call("make", move |open| objects::make_pair(open, &reference, &label)).await?;
        let held = Held { by: self.id(), reference: reference.to_vec() };
        let half = VerificationKey::from_public_bytes(Algorithm::Es256, &public);
        let half = half.map_err(|_| HardwareError::Unfit("it has made no P-256 key".to_owned()));
        // A token may make something else of what it was asked for: then it is not kept.
        let proven = match half {
            Ok(half) => self.prove(&held.reference, &half).await,
            Err(error) => Err(error),
        };
        if let Err(error) = proven {
            self.destroy(&held.reference).await?;
            return Err(error);
        }
        Ok(MadeInHardware { held, public })
    }

    fn signer(&self, reference: &[u8], public: VerificationKey) -> Arc<dyn Signer> {
        Arc::new(signer::TokenKey::new(self.clone(), reference.into(), public))
    }

    async fn prove(&self, reference: &[u8], public: &VerificationKey) -> Result<(), HardwareError> {
        signer::prove(self, reference, public).await
    }

    async fn destroy(&self, reference: &[u8]) -> Result<bool, HardwareError> {
        let reference = reference.to_vec();
        self.call("destroy", move |open| objects::destroy_pair(open, &reference)).await
    }

    async fn close(&self) {
        if !self.0.pool.close().await {
            tracing::warn!(
                token = self.0.id,
                "a call to the PKCS#11 token does not come back; it is left behind"
            );
        }
    }
}
