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

    /// Tells its clock, in a process that believes that the machine slept for long.
    const ASKED: &str = "TASKPASS_TELL_THE_CLOCK";

    #[test]
    fn it_runs_on_through_a_suspension() {
        if std::env::var_os(ASKED).is_some() {
            println!("clock={}", now().as_nanos());
            return;
        }
        let slept = Duration::from_secs(100_000);
        let mut asleep = std::process::Command::new("unshare");
        asleep.args(["--time", "--boottime", &slept.as_secs().to_string(), "--"]);
        asleep.arg(std::env::current_exe().unwrap()).args([
            "--exact",
            "feed::clock::tests::it_runs_on_through_a_suspension",
            "--nocapture",
        ]);
        let told = asleep.env(ASKED, "1").output();
        let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned()).unwrap_or_default();
        let Some(clock) = told.lines().find_map(|line| line.split("clock=").nth(1)) else {
            // Needs Linux 5.6, the tool, and the right to make a time namespace.
            println!("skipped: a process cannot be given a clock of its own here");
            return;
        };
        let apart = Duration::from_nanos(clock.trim().parse::<u64>().unwrap() - now().as_nanos());
        assert!(apart.abs_diff(slept) < Duration::from_secs(30), "{apart:?}");
    }
}
