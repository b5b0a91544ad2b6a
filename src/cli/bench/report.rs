//! The figures: their names, what is wanted of each, and what was measured.

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::load::median;
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
}

/// What is wanted.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
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
        )
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
            Self::Restart1mFirstMintS | Self::LapseMintP99PerQuiet | Self::VerifyRepeatUs => {
                Wanted::AtMost(2.0)
            }
            Self::VerifyFirstPerRing => Wanted::AtMost(1.35),
            Self::IdleRssMb => Wanted::AtMost(40.0),
            Self::ReadyS => Wanted::AtMost(0.3),
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
            Wanted::AtMost(_) => values.iter().map(of).reduce(f64::max),
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

    /// For programs: the figures by their names, and the rest under `detail`.
    pub(super) fn to_json(&self) -> Value {
        let mut all: Map<_, _> = self.figures.iter().map(|(f, value)| (f.name(), json!(value))).collect();
        all.insert("detail".to_owned(), Value::Object(self.detail.clone()));
        Value::Object(all)
    }

    /// For people: a line for each figure.
    pub(super) fn to_text(&self) -> String {
        let line = |(figure, value): &(Figure, f64)| {
            let (wanted, met) = match figure.wanted() {
                Wanted::AtLeast(least) => (format!("at least {least}"), value >= &least),
                Wanted::AtMost(most) => (format!("at most {most}"), value <= &most),
            };
            let verdict = if met { "met" } else { "NOT MET" };
            format!("{:<28} {value:>10}   {wanted:<15} {verdict}\n", figure.name())
        };
        self.figures.iter().map(line).collect()
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
}
