//! Named places where a test makes the real process die, so that what a crash leaves behind can be seen.
//!
//! A place costs one relaxed atomic load. It is armed by the environment variable `TASKPASS_FAILPOINT=<name>` of a broker built with debug
//! assertions; release builds compile it to nothing.

/// Aborts the process if this is the armed place.
#[inline]
pub fn reach(name: &'static str) {
    #[cfg(debug_assertions)]
    if armed() == Some(name) {
        // No destructors, no flush: as if the power had gone.
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
fn armed() -> Option<&'static str> {
    static ARMED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ARMED.get_or_init(|| std::env::var("TASKPASS_FAILPOINT").ok()).as_deref()
}
