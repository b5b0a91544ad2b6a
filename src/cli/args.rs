//! Values on the command line.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::input;
use crate::proto;

/// A duration such as `90s`, `10m` or `1h 30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|why| format!("{why}; write a duration such as 90s, 10m or 1h"))
}

/// The same for a time-out: without any time nothing can be done.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("write a duration that is longer than zero, such as 10s".to_owned()),
        given => Ok(given),
    }
}

/// How long an end waits for those who follow.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Wait {
    /// Wait this long for the verifiers that follow the feed; 0s: do not wait [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

impl Wait {
    pub(super) fn to_proto(&self) -> Option<prost_types::Duration> {
        self.wait.map(proto_duration)
    }
}

/// A number of things to show.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>().map(NonZeroUsize::get).map_err(|_| "write a number from 1 on".to_owned())
}

/// As protobuf has it; what protobuf cannot hold is cut, and the broker refuses it.
pub(super) fn proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// `AUDIENCE=TOOL,TOOL`
pub(super) fn grant(text: &str) -> Result<proto::Grant, String> {
    let form = "write AUDIENCE=TOOL,TOOL such as https://docs.example.org/mcp=search,read";
    let (audience, tools) = text.rsplit_once('=').ok_or(form)?;
    if audience.is_empty() || tools.split(',').any(str::is_empty) {
        return Err(form.to_owned());
    }
    let tool = |name: &str| proto::ToolGrant { name: name.to_owned(), ..Default::default() };
    Ok(proto::Grant { audience: audience.to_owned(), tools: tools.split(',').map(tool).collect() })
}

/// SHA-256 in 64 hexadecimal digits, colons allowed as OpenSSL prints them, or in base64url as JOSE has it.
pub(super) fn sha256(text: &str) -> Result<[u8; 32], String> {
    use base64::Engine as _;
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let bytes = match digits.len() {
        64 => hex(&digits),
        _ => base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok(),
    };
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes
        .ok_or_else(|| "not a SHA-256 digest: 64 hexadecimal digits or 43 characters of base64url".to_owned())
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// A grant as a JSON file says it, and as `--json` shows it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantFile {
    audience: String,
    tools: Vec<ToolFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolFile {
    name: String,
    #[serde(default)]
    arguments: BTreeMap<String, LimitFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitFile {
    #[serde(default)]
    one_of: Vec<Value>,
    prefix: Option<String>,
    minimum: Option<i64>,
    maximum: Option<i64>,
    max_length: Option<u32>,
}

/// Reads grants with limits on arguments from a JSON file, `-` for standard input.
pub(super) fn grants_file(path: &Path) -> Result<Vec<proto::Grant>, Failure> {
    parse_grants(&input::text(path, "the grants as JSON")?)
        .map_err(|why| Failure::usage(format_args!("{}: {why}", path.display())))
}

pub(super) fn parse_grants(text: &str) -> Result<Vec<proto::Grant>, serde_json::Error> {
    let grants: Vec<GrantFile> = serde_json::from_str(text)?;
    Ok(grants.into_iter().map(Into::into).collect())
}

impl From<GrantFile> for proto::Grant {
    fn from(grant: GrantFile) -> Self {
        Self { audience: grant.audience, tools: grant.tools.into_iter().map(Into::into).collect() }
    }
}

impl From<ToolFile> for proto::ToolGrant {
    fn from(tool: ToolFile) -> Self {
        let arguments = tool.arguments.into_iter().map(|(name, limit)| (name, limit.into()));
        Self { name: tool.name, arguments: arguments.collect() }
    }
}

impl From<LimitFile> for proto::ArgumentConstraint {
    fn from(limit: LimitFile) -> Self {
        Self {
            one_of_json: limit.one_of.iter().map(ToString::to_string).collect(),
            prefix: limit.prefix,
            minimum: limit.minimum,
            maximum: limit.maximum,
            max_length: limit.max_length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_its_audience_and_its_tools() {
        let grant = grant("https://a.test/mcp?x=1=search,read").unwrap();
        assert_eq!(grant.audience, "https://a.test/mcp?x=1");
        assert_eq!(grant.tools.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["search", "read"]);
        for wrong in ["https://a.test/mcp", "=search", "https://a.test/mcp=", "https://a.test/mcp=a,,b"] {
            assert!(super::grant(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_of_grants_may_limit_arguments() {
        let text = r#"[{"audience":"https://p.test/mcp","tools":[{"name":"refund","arguments":
            {"amount":{"minimum":1,"maximum":2000},"currency":{"one_of":["EUR",7,true]}}}]}]"#;
        let grants = parse_grants(text).unwrap();
        let limits = &grants[0].tools[0].arguments;
        assert_eq!(limits["amount"].maximum, Some(2000));
        assert_eq!(limits["currency"].one_of_json, ["\"EUR\"", "7", "true"]);
    }

    #[test]
    fn a_misspelt_limit_is_an_error_and_not_no_limit() {
        let text = r#"[{"audience":"a","tools":[{"name":"t","arguments":{"n":{"max":1}}}]}]"#;
        assert!(parse_grants(text).unwrap_err().to_string().contains("max"));
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert!(duration("90").is_err());
        assert!(duration("-1s").is_err());
        assert_eq!((duration("0s"), some_time("1ms")), (Ok(Duration::ZERO), Ok(Duration::from_millis(1))));
        assert!(some_time("0s").is_err() && some_time("90").is_err());
    }

    #[test]
    fn a_digest_is_read_as_hexadecimal_digits_or_base64url() {
        let hex = "ab".repeat(32);
        assert_eq!(sha256(&hex).unwrap(), [0xab; 32]);
        assert_eq!(sha256("q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s").unwrap(), [0xab; 32]);
        assert!(sha256("zz").is_err());
    }
}
