//! The figures: their names, what is wanted of each, and what was measured.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::load::median;
use super::spread::{Spread, ms};
use super::world::StoreKind;

/// What can be measured; the names are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Figure {
    /// Mint a token, recorded in Redis, against an empty RPC
    MintRedisPerEmpty,
    /// Mint a token, recorded in the embedded store, against an empty RPC
    MintEmbeddedPerEmpty,
    /// Validate a token that was seen before, against an empty RPC
    ValidateRepeatPerEmpty,
    /// Validate a token at first sight, against an empty RPC
    ValidateFirstPerEmpty,
    /// Issue a certificate from a CSR, recorded in Redis, against an empty RPC
    CertPerEmpty,
    /// Complete a task of 100,000 credentials against one of 1
    #[value(name = "complete_100k_per_1")]
    Complete100kPer1,
    /// Memory in Redis for each of 1,000,000 credentials
    RedisBytesPerCredential,
    /// Memory in Redis for each of 100,000 tasks
    RedisBytesPerTask,
    /// From kill -9 with 1,000,000 live credentials to the first mint of the next broker
    #[value(name = "restart_1m_first_mint_s")]
    Restart1mFirstMintS,
    /// Resident memory of an idle broker
    IdleRssMb,
    /// From the start of a broker to its first 200 of /readyz
    ReadyS,
    /// 99th percentile of a mint while 100,000 tasks lapse, against the quiet one
    LapseMintP99PerQuiet,
    /// Judge a token at first sight with the verifier library, against ring's verification of its signature
    VerifyFirstPerRing,
    /// Judge a token again with the verifier library, in microseconds
    VerifyRepeatUs,
    /// Memory of a verifier's view of 100,000 ended tasks
    #[value(name = "view_100k_mb")]
    View100kMb,
    /// From an agent's CompleteTask to the refusal by the last of 100 followers at two brokers: median
    #[value(name = "end_to_refused_100_p50_ms")]
    EndToRefused100P50Ms,
    /// The same, 99th percentile
    #[value(name = "end_to_refused_100_p99_ms")]
    EndToRefused100P99Ms,
    /// Until the agent has its receipt with all 100 followers in it, 99th percentile
    #[value(name = "receipt_100_p99_ms")]
    Receipt100P99Ms,
    /// From an agent's CompleteTask to the refusal by the last of 1,000 followers at two brokers: 99th percentile
    #[value(name = "end_to_refused_1000_p99_ms")]
    EndToRefused1000P99Ms,
    /// Until the agent has its receipt with all 1,000 followers in it, 99th percentile
    #[value(name = "receipt_1000_p99_ms")]
    Receipt1000P99Ms,
    /// From an operator's CompromiseKey to the refusal, by the last of 100 followers at two brokers, of a token that it had verified: 99th percentile
    #[value(name = "compromise_to_refused_100_p99_ms")]
    CompromiseToRefused100P99Ms,
    /// Processor time of a broker with 100 idle followers and a bound of 2 s, in percent of one core
    #[value(name = "idle_followers_100_core_percent")]
    IdleFollowers100CorePercent,
    /// Resident memory of a broker for each of 1,000 followers, in KiB
    FollowerKbBroker,
}

/// What belongs together in the report for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Calls,
    Size,
    Verdicts,
    Feed,
}

impl Group {
    const ALL: [Self; 4] = [Self::Calls, Self::Size, Self::Verdicts, Self::Feed];

    const fn title(self) -> &'static str {
        match self {
            Self::Calls => "Calls against an empty RPC",
            Self::Size => "Ends, memory and starts",
            Self::Verdicts => "Verdicts in a verifier",
            Self::Feed => "The pushed feed",
        }
    }
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// Of another figure of the same run.
    TwiceOf(Figure),
}

impl Figure {
    /// Whether it takes minutes.
    pub(super) const fn is_long(self) -> bool {
        matches!(
            self,
            Self::Complete100kPer1
                | Self::RedisBytesPerCredential
                | Self::RedisBytesPerTask
                | Self::Restart1mFirstMintS
                | Self::LapseMintP99PerQuiet
                | Self::EndToRefused1000P99Ms
                | Self::Receipt1000P99Ms
                | Self::CompromiseToRefused100P99Ms
        )
    }

    const fn group(self) -> Group {
        match self {
            Self::MintRedisPerEmpty
            | Self::MintEmbeddedPerEmpty
            | Self::ValidateRepeatPerEmpty
            | Self::ValidateFirstPerEmpty
            | Self::CertPerEmpty => Group::Calls,
            Self::Complete100kPer1
            | Self::RedisBytesPerCredential
            | Self::RedisBytesPerTask
            | Self::Restart1mFirstMintS
            | Self::IdleRssMb
            | Self::ReadyS
            | Self::LapseMintP99PerQuiet => Group::Size,
            Self::VerifyFirstPerRing | Self::VerifyRepeatUs | Self::View100kMb => Group::Verdicts,
            Self::EndToRefused100P50Ms
            | Self::EndToRefused100P99Ms
            | Self::Receipt100P99Ms
            | Self::EndToRefused1000P99Ms
            | Self::Receipt1000P99Ms
            | Self::CompromiseToRefused100P99Ms
            | Self::IdleFollowers100CorePercent
            | Self::FollowerKbBroker => Group::Feed,
        }
    }

    /// As `--only` and the report call it.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    const fn wanted(self) -> Wanted {
        match self {
            Self::MintRedisPerEmpty => Wanted::AtLeast(0.28),
            Self::MintEmbeddedPerEmpty => Wanted::AtLeast(0.22),
            Self::ValidateRepeatPerEmpty => Wanted::AtLeast(0.40),
            Self::ValidateFirstPerEmpty => Wanted::AtLeast(0.24),
            Self::CertPerEmpty => Wanted::AtLeast(0.15),
            Self::Complete100kPer1 => Wanted::AtMost(1.2),
            Self::RedisBytesPerCredential => Wanted::AtMost(200.0),
            Self::RedisBytesPerTask => Wanted::AtMost(1024.0),
            Self::Restart1mFirstMintS
            | Self::LapseMintP99PerQuiet
            | Self::VerifyRepeatUs
            | Self::IdleFollowers100CorePercent => Wanted::AtMost(2.0),
            Self::VerifyFirstPerRing => Wanted::AtMost(1.35),
            Self::IdleRssMb => Wanted::AtMost(40.0),
            Self::ReadyS => Wanted::AtMost(0.3),
            Self::View100kMb => Wanted::AtMost(16.0),
            Self::EndToRefused100P50Ms => Wanted::AtMost(10.0),
            Self::EndToRefused100P99Ms => Wanted::AtMost(50.0),
            Self::EndToRefused1000P99Ms => Wanted::AtMost(250.0),
            Self::Receipt100P99Ms => Wanted::TwiceOf(Self::EndToRefused100P99Ms),
            Self::Receipt1000P99Ms => Wanted::TwiceOf(Self::EndToRefused1000P99Ms),
            Self::CompromiseToRefused100P99Ms => Wanted::AtMost(1_000.0),
            Self::FollowerKbBroker => Wanted::AtMost(64.0),
        }
    }
}

/// Everything that was measured, in order.
#[derive(Default)]
pub(super) struct Report {
    figures: Vec<(Figure, f64)>,
    detail: Map<String, Value>,
}

impl Report {
    /// A figure, rounded to what is worth saying.
    pub(super) fn figure(&mut self, figure: Figure, value: f64) {
        self.figures.push((figure, rounded(value)));
    }

    /// The worse of both stores; nothing if neither was measured.
    pub(super) fn worst(&mut self, figure: Figure, values: &[(StoreKind, f64)]) {
        for (store, value) in values {
            self.detail(format!("{}_{}", figure.name(), store.name()), *value);
        }
        let of = |(_, value): &(StoreKind, f64)| *value;
        let worst = match figure.wanted() {
            Wanted::AtLeast(_) => values.iter().map(of).reduce(f64::min),
            Wanted::AtMost(_) | Wanted::TwiceOf(_) => values.iter().map(of).reduce(f64::max),
        };
        if let Some(worst) = worst {
            self.figure(figure, worst);
        }
    }

    /// The median of rounds, which go into the detail as well.
    pub(super) fn rounds(&mut self, figure: Figure, ratios: &[f64]) {
        let rounds: Vec<_> = ratios.iter().copied().map(rounded).collect();
        self.detail.insert(format!("{}_rounds", figure.name()), json!(rounds));
        self.figure(figure, median(ratios));
    }

    /// Something that explains a figure.
    pub(super) fn detail(&mut self, name: impl Into<String>, value: f64) {
        self.detail.insert(name.into(), json!(rounded(value)));
    }

    /// What explains a figure of how long something, of which there was one in each round, takes to reach so many followers.
    pub(super) fn spread(&mut self, followers: &str, what: &str, spread: &Spread) {
        let rounds = spread.plan.rounds as f64;
        let detail = [
            (format!("{what}_to_first_refused_p50_ms"), ms(&spread.first, 0.5)),
            (format!("{what}_to_half_refused_p50_ms"), ms(&spread.half, 0.5)),
            (format!("{what}_to_refused_p50_ms"), ms(&spread.last, 0.5)),
            (format!("{what}_to_refused_most_ms"), ms(&spread.last, 1.0)),
            (format!("{what}_receipt_p50_ms"), ms(&spread.receipt, 0.5)),
            (format!("verdicts_asked_per_{what}"), spread.asked as f64 / rounds),
            (format!("verdicts_accepted_per_{what}"), spread.accepted as f64 / rounds),
        ];
        for (name, value) in detail {
            self.detail(format!("{followers}_{name}"), value);
        }
    }

    /// For programs: the figures by their names, and the rest under `detail`.
    pub(super) fn to_json(&self) -> Value {
        let mut all: Map<_, _> = self.figures.iter().map(|(f, value)| (f.name(), json!(value))).collect();
        all.insert("detail".to_owned(), Value::Object(self.detail.clone()));
        Value::Object(all)
    }

    /// For people: a line for each figure, in groups.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for group in Group::ALL {
            let of_it = self.figures.iter().filter(|(figure, _)| figure.group() == group);
            let lines: String = of_it.map(|(figure, value)| self.line(*figure, *value)).collect();
            if !lines.is_empty() {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}{}\n{lines}", group.title()));
            }
        }
        text
    }

    fn line(&self, figure: Figure, value: f64) -> String {
        let (wanted, met) = match figure.wanted() {
            Wanted::AtLeast(least) => (format!("at least {least}"), value >= least),
            Wanted::AtMost(most) => (format!("at most {most}"), value <= most),
            Wanted::TwiceOf(other) => {
                let other = self.figures.iter().find(|(figure, _)| *figure == other);
                let most = rounded(other.map_or(0.0, |(_, value)| value * 2.0));
                (format!("at most {most}"), value <= most)
            }
        };
        let verdict = if met { "met" } else { "NOT MET" };
        format!("  {:<32} {value:>10}   {wanted:<15} {verdict}\n", figure.name())
    }
}

/// Three places behind the point below a hundred, one above.
fn rounded(value: f64) -> f64 {
    let places = if value.abs() < 100.0 { 1_000.0 } else { 10.0 };
    (value * places).round() / places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_object_with_the_figures_by_name() {
        let mut report = Report::default();
        report.rounds(Figure::MintRedisPerEmpty, &[0.31, 0.29, 0.3]);
        report.worst(Figure::ReadyS, &[(StoreKind::Redis, 0.05), (StoreKind::Embedded, 0.0712)]);
        let json = report.to_json();
        assert_eq!(json["mint_redis_per_empty"], 0.3);
        assert_eq!(json["ready_s"], 0.071);
        assert_eq!(json["detail"]["ready_s_redis"], 0.05);
        assert!(!report.to_text().contains("NOT MET"), "{}", report.to_text());
    }

    #[test]
    fn names_are_those_that_were_agreed() {
        let names: Vec<_> = Figure::value_variants().iter().map(|figure| figure.name()).collect();
        assert_eq!(
            names,
            [
                "mint_redis_per_empty",
                "mint_embedded_per_empty",
                "validate_repeat_per_empty",
                "validate_first_per_empty",
                "cert_per_empty",
                "complete_100k_per_1",
                "redis_bytes_per_credential",
                "redis_bytes_per_task",
                "restart_1m_first_mint_s",
                "idle_rss_mb",
                "ready_s",
                "lapse_mint_p99_per_quiet",
                "verify_first_per_ring",
                "verify_repeat_us",
                "view_100k_mb",
                "end_to_refused_100_p50_ms",
                "end_to_refused_100_p99_ms",
                "receipt_100_p99_ms",
                "end_to_refused_1000_p99_ms",
                "receipt_1000_p99_ms",
                "compromise_to_refused_100_p99_ms",
                "idle_followers_100_core_percent",
                "follower_kb_broker",
            ]
        );
    }

    #[test]
    fn a_figure_that_falls_short_is_said_to() {
        let mut report = Report::default();
        report.figure(Figure::MintRedisPerEmpty, 0.279);
        report.figure(Figure::IdleRssMb, 40.1);
        assert_eq!(report.to_text().matches("NOT MET").count(), 2);
    }

    #[test]
    fn a_receipt_is_measured_against_the_ends_of_the_same_run_and_stands_beside_them() {
        let mut report = Report::default();
        report.figure(Figure::ReadyS, 0.1);
        report.figure(Figure::EndToRefused100P99Ms, 20.0);
        report.figure(Figure::Receipt100P99Ms, 39.9);
        let text = report.to_text();
        assert!(text.contains("at most 40 ") && !text.contains("NOT MET"), "{text}");
        assert_eq!(text.matches("\n\nThe pushed feed\n").count(), 1, "{text}");
        report.figure(Figure::Receipt1000P99Ms, 1.0);
        assert_eq!(report.to_text().matches("NOT MET").count(), 1, "there is nothing to measure it against");
    }
}
