//! Limits that a policy puts on what it permits.
//!
//! ```cedar
//! @id("agents-mint")
//! @max_token_lifetime("5m")
//! permit(principal, action == Taskpass::Action::"MintToken", resource);
//! ```
//!
//! Where several permits are satisfied, the greatest of their caps counts, as each of them alone would have permitted it. A
//! permit without the annotation sets no cap: the configured ceiling holds, as it always does.

use std::time::Duration;

/// The annotation that names a policy.
pub(super) const ID: &str = "id";
const TASK_LIFETIME: &str = "max_task_lifetime";
const TOKEN_LIFETIME: &str = "max_token_lifetime";
const CERTIFICATE_LIFETIME: &str = "max_certificate_lifetime";
const LIVE_TASKS: &str = "max_live_tasks";

/// Longest lifetime that a cap may name: a year.
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3_600);

/// What a policy, or several together, allow at most. `None`: no more than the configured ceiling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Of a task; `@max_task_lifetime("1h")`.
    pub task_lifetime: Option<Duration>,
    /// Of a token; `@max_token_lifetime("5m")`.
    pub token_lifetime: Option<Duration>,
    /// Of a certificate; `@max_certificate_lifetime("30m")`.
    pub certificate_lifetime: Option<Duration>,
    /// Live tasks of one workload; `@max_live_tasks("50")`.
    pub live_tasks: Option<u32>,
}

impl Caps {
    /// Takes one annotation. The error says what is wrong with it.
    pub(super) fn annotate(&mut self, key: &str, value: &str) -> Result<(), String> {
        let lifetime = || match humantime::parse_duration(value) {
            Ok(lifetime) if !lifetime.is_zero() && lifetime <= MAX_LIFETIME => Ok(Some(lifetime)),
            _ => Err(format!("@{key}({value:?}): not a duration such as \"30m\", at most a year")),
        };
        match key {
            TASK_LIFETIME => self.task_lifetime = lifetime()?,
            TOKEN_LIFETIME => self.token_lifetime = lifetime()?,
            CERTIFICATE_LIFETIME => self.certificate_lifetime = lifetime()?,
            LIVE_TASKS => match value.parse() {
                Ok(most @ 1..) => self.live_tasks = Some(most),
                _ => return Err(format!("@{key}({value:?}): not a whole number from 1")),
            },
            _ => return Err(format!("unknown annotation @{key}")),
        }
        Ok(())
    }

    /// The annotations that are set, each with the action that it caps.
    pub(super) fn capped_actions(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (self.task_lifetime.is_some(), TASK_LIFETIME, "BeginTask"),
            (self.token_lifetime.is_some(), TOKEN_LIFETIME, "MintToken"),
            (self.certificate_lifetime.is_some(), CERTIFICATE_LIFETIME, "IssueCertificate"),
            (self.live_tasks.is_some(), LIVE_TASKS, "BeginTask"),
        ]
        .into_iter()
        .filter_map(|(is_set, annotation, action)| is_set.then_some((annotation, action)))
    }

    /// What two permits allow together, where either would do: the greater of each.
    #[must_use]
    pub(super) fn either(self, other: Self) -> Self {
        Self {
            task_lifetime: greatest(self.task_lifetime, other.task_lifetime),
            token_lifetime: greatest(self.token_lifetime, other.token_lifetime),
            certificate_lifetime: greatest(self.certificate_lifetime, other.certificate_lifetime),
            live_tasks: greatest(self.live_tasks, other.live_tasks),
        }
    }

    /// What two decisions allow together, where both must hold: the lesser of each.
    #[must_use]
    pub(super) fn both(self, other: Self) -> Self {
        Self {
            task_lifetime: least(self.task_lifetime, other.task_lifetime),
            token_lifetime: least(self.token_lifetime, other.token_lifetime),
            certificate_lifetime: least(self.certificate_lifetime, other.certificate_lifetime),
            live_tasks: least(self.live_tasks, other.live_tasks),
        }
    }
}

/// `None` is greater than any cap.
fn greatest<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// `None` is greater than any cap.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
