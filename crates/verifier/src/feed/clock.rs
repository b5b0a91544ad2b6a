//! The one clock that verdicts of a following verifier are judged by.

use rustix::time::{ClockId, clock_gettime};

use crate::moment::Moment;

/// Runs on while the machine is suspended, and nobody sets it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// On macOS this one runs on while the machine sleeps. Where it does not, a suspended verifier is stale for as much longer.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// Now, for [`crate::At::moment`]: `CLOCK_BOOTTIME` on Linux. To be read as late as possible before a verdict.
pub fn now() -> Moment {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_from_the_start_of_the_machine_as_the_kernel_does() {
        let Ok(uptime) = std::fs::read_to_string("/proc/uptime") else { return };
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let told = Duration::from_nanos(now().as_nanos());
        assert!((told.as_secs_f64() - seconds).abs() < 5.0, "{told:?} and {seconds} s");
    }
}
