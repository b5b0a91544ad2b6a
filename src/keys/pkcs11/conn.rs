//! A session with the token, kept by one thread: opened, logged in, and opened anew when it is lost. The PIN is tried once: what refuses it is not asked again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;

use super::Settings;
use crate::keys::error::printable;
use crate::keys::hardware::HardwareError;

/// How often a call is tried, with a session that is opened anew where it has to be.
const ATTEMPTS: usize = 3;
/// Before the last of them: another process may be writing what the module reads.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a call did not do what it is for.
#[derive(Debug)]
pub(super) enum Fault {
    /// What the module said.
    Said(Pkcs11Error),
    /// What follows from what it said.
    Means(HardwareError),
    /// It shows no such token.
    Absent(String),
}

impl From<Pkcs11Error> for Fault {
    fn from(error: Pkcs11Error) -> Self {
        Self::Said(error)
    }
}

impl From<HardwareError> for Fault {
    fn from(error: HardwareError) -> Self {
        Self::Means(error)
    }
}

pub(super) fn unfit(what: impl Into<String>) -> Fault {
    Fault::Means(HardwareError::Unfit(what.into()))
}

/// The module, which a process has once, and what is known of the token.
pub(super) struct Module {
    settings: Settings,
    state: Mutex<State>,
    /// Whoever calls the module holds it for reading; to begin anew with it, nobody may be in there.
    inside: RwLock<()>,
    /// Grows when the module is begun anew: sessions and handles of before are nothing any more.
    epoch: AtomicU64,
    /// A session was lost: it may be the module that has lost the token.
    suspect: AtomicBool,
}

#[derive(Default)]
struct State {
    client: Option<Pkcs11>,
    begun: bool,
    /// The PIN was refused.
    refused: Option<String>,
}

impl Module {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: Mutex::default(),
            inside: RwLock::new(()),
            epoch: AtomicU64::new(0),
            suspect: AtomicBool::new(false),
        }
    }

    /// Begins anew with the module, if a session was lost and nobody else is in there. Some modules find a token again in no other way.
    fn begin_anew(&self) {
        if !self.suspect.load(Ordering::SeqCst) {
            return;
        }
        let Ok(_alone) = self.inside.try_write() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.suspect.swap(false, Ordering::SeqCst) || state.refused.is_some() {
            return;
        }
        self.epoch.fetch_add(1, Ordering::SeqCst);
        if let Some(client) = &state.client {
            // What it says does not matter: it is begun in any case.
            let _ = client.clone().finalize();
        }
        state.begun = false;
    }

    /// A session, logged in. One thread at a time: so one PIN is tried, once.
    fn open(&self) -> Result<(Session, Slot), Fault> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &state.refused {
            return Err(HardwareError::Refused(why.clone()).into());
        }
        let client = match &state.client {
            Some(client) => client.clone(),
            None => {
                let client = load(&self.settings.module)?;
                state.client = Some(client.clone());
                client
            }
        };
        if !state.begun {
            match client.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
                Err(error) => return Err(error.into()),
            }
            state.begun = true;
        }
        let (slot, token) = self.find(&client)?;
        judge(&token)?;
        let session = client.open_rw_session_no_drop(slot)?;
        // Another session of this process has logged all of them in.
        if is_logged_in(&session)? {
            return Ok((session, slot));
        }
        let pin = AuthPin::from(self.settings.pin.expose().to_owned());
        let refused = match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok((session, slot)),
            Err(Pkcs11Error::Pkcs11(RvError::PinIncorrect, _)) => "the PIN is wrong",
            Err(Pkcs11Error::Pkcs11(RvError::PinLocked, _)) => {
                "the PIN is locked, after too many wrong ones: its security officer unlocks it"
            }
            Err(Pkcs11Error::Pkcs11(RvError::PinExpired, _)) => "the PIN has expired",
            Err(Pkcs11Error::Pkcs11(RvError::PinInvalid | RvError::PinLenRange, _)) => {
                "the PIN is none that it could have"
            }
            Err(error) => {
                let _ = session.close();
                return Err(error.into());
            }
        };
        let _ = session.close();
        let why = format!(
            "{refused}. It is not tried again before the next start, for a token locks itself after a few tries"
        );
        state.refused = Some(why.clone());
        Err(HardwareError::Refused(why).into())
    }

    /// The one token of that label, and serial number.
    fn find(&self, client: &Pkcs11) -> Result<(Slot, TokenInfo), Fault> {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for slot in client.get_slots_with_token()? {
            let token = client.get_token_info(slot)?;
            let serial = self.settings.serial.as_deref();
            let named = token.token_initialized() && token.label() == self.settings.token;
            if named && serial.is_none_or(|serial| token.serial_number() == serial) {
                found.push((slot, token));
            } else if token.token_initialized() {
                others.push(format!(
                    "\"{}\" (serial {})",
                    printable(token.label(), 32),
                    printable(token.serial_number(), 16)
                ));
            }
        }
        if found.len() > 1 {
            let what = "several tokens have the label {label}: say which by keys.pkcs11.serial";
            return Err(unfit(what.replace("{label}", &format!("\"{}\"", self.settings.token))));
        }
        found.pop().ok_or_else(|| {
            let present = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            let wanted = &self.settings.token;
            Fault::Absent(format!("no token with the label \"{wanted}\" is present; present: {present}"))
        })
    }
}

/// Says before any PIN is tried what would come of that.
fn judge(token: &TokenInfo) -> Result<(), Fault> {
    let refused = if !token.user_pin_initialized() {
        "it has no user PIN yet"
    } else if token.user_pin_locked() {
        "its PIN is locked: its security officer unlocks it"
    } else if token.user_pin_final_try() {
        "one try of the PIN is left before it locks, and that one is yours: log in once by hand with the right PIN"
    } else {
        return Ok(());
    };
    Err(HardwareError::Refused(refused.to_owned()).into())
}

/// Loads the module, once and for good: a thread may hang in it at any time.
fn load(path: &Path) -> Result<Pkcs11, Fault> {
    let client = Pkcs11::new(path).map_err(|error| {
        let error = printable(&error.to_string(), 300);
        unfit(format!("the module {} cannot be loaded: {error}", path.display()))
    })?;
    std::mem::forget(client.clone());
    Ok(client)
}

/// What one thread has.
pub(super) struct Conn {
    module: Arc<Module>,
    open: Option<Open>,
    epoch: u64,
}

/// A session that is logged in, and the objects that were found in it.
pub(super) struct Open {
    pub(super) session: Session,
    slot: Slot,
    client: Pkcs11,
    pub(super) known: BTreeMap<Vec<u8>, ObjectHandle>,
}

impl Open {
    /// Whether the token is there and has us logged in. What lists objects says of a token that has vanished that it is empty.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.client.get_token_info(self.slot)?;
        if is_logged_in(&self.session)? {
            return Ok(());
        }
        Err(Pkcs11Error::Pkcs11(RvError::UserNotLoggedIn, Function::GetSessionInfo).into())
    }
}

fn is_logged_in(session: &Session) -> Result<bool, Fault> {
    Ok(matches!(session.get_session_info()?.session_state(), SessionState::RwUser | SessionState::RoUser))
}

impl Conn {
    pub(super) const fn new(module: Arc<Module>) -> Self {
        Self { module, open: None, epoch: 0 }
    }

    /// Does something in a session. One that was lost is opened anew, and it is done there.
    pub(super) fn call<T>(
        &mut self,
        what: &impl Fn(&mut Open) -> Result<T, Fault>,
    ) -> Result<T, HardwareError> {
        let module = Arc::clone(&self.module);
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 1 {
                thread::sleep(PAUSE);
            }
            module.begin_anew();
            let _inside = module.inside.read().unwrap_or_else(PoisonError::into_inner);
            let done = self.opened().and_then(what);
            match done {
                Ok(done) => return Ok(done),
                Err(Fault::Means(error)) => return Err(error),
                Err(Fault::Said(error)) if is_lost(&error) => {
                    self.leave();
                    module.suspect.store(true, Ordering::SeqCst);
                    last = said(&error);
                }
                // Some modules look for tokens when they are begun, and never again.
                Err(Fault::Absent(why)) => {
                    module.suspect.store(true, Ordering::SeqCst);
                    last = why;
                }
                Err(Fault::Said(error)) if is_stale(&error) => {
                    self.open.iter_mut().for_each(|open| open.known.clear());
                    last = said(&error);
                }
                Err(Fault::Said(error)) => return Err(HardwareError::Unfit(said(&error))),
            }
        }
        Err(HardwareError::Unavailable(last))
    }

    fn opened(&mut self) -> Result<&mut Open, Fault> {
        let epoch = self.module.epoch.load(Ordering::SeqCst);
        if self.epoch != epoch {
            self.open = None;
        }
        self.epoch = epoch;
        if self.open.is_none() {
            let (session, slot) = self.module.open()?;
            let state = self.module.state.lock().unwrap_or_else(PoisonError::into_inner);
            let client = state.client.clone().ok_or_else(|| unfit("the module is not loaded"))?;
            self.open = Some(Open { session, slot, client, known: BTreeMap::new() });
        }
        self.open.as_mut().ok_or_else(|| unfit("there is no session"))
    }

    /// Closes the session, if it lets itself be closed.
    fn leave(&mut self) {
        if let Some(open) = self.open.take() {
            let _ = open.session.close();
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.epoch == self.module.epoch.load(Ordering::SeqCst) {
            self.leave();
        }
    }
}

/// The session is over, or the token is not there.
const fn is_lost(error: &Pkcs11Error) -> bool {
    let Pkcs11Error::Pkcs11(error, _) = error else { return false };
    matches!(
        error,
        RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::DeviceRemoved
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::HostMemory
            | RvError::SessionClosed
            | RvError::SessionCount
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn
            | RvError::VendorDefined(_)
            | RvError::UnknownErrorCode(_)
    )
}

/// An object is not where it was found.
const fn is_stale(error: &Pkcs11Error) -> bool {
    let Pkcs11Error::Pkcs11(error, _) = error else { return false };
    matches!(error, RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid)
}

/// In words of PKCS#11, which the maker's manual explains.
fn said(error: &Pkcs11Error) -> String {
    match error {
        Pkcs11Error::Pkcs11(value, function) => format!("C_{function:?} answered {value:?}"),
        other => printable(&other.to_string(), 300),
    }
}
