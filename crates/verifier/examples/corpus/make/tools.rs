//! What a good token permits.

use super::case::{Case, case, payload};
use super::signers::Signers;

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let call = |name, about, call: &str, verdict| Case {
        call: Some(call.to_owned()),
        ..case(name, about, s.sign(payload(&[])), verdict)
    };
    let read = |path: &str| format!(r#"{{"tool": "files.read", "arguments": {{"path": {path}}}}}"#);
    let (granted, beyond) = ("active", "argument_not_permitted");
    vec![
        call(
            "tool_granted",
            "a tool without limits",
            r#"{"tool": "web/search", "arguments": {"q": 1}}"#,
            granted,
        ),
        call(
            "tool_without_arguments",
            "the same without arguments",
            r#"{"tool": "web/search", "arguments": null}"#,
            granted,
        ),
        call("argument_within", "a path below the prefix", &read(r#""/srv/reports/q3.txt""#), granted),
        call(
            "tool_not_granted",
            "a tool that the scope does not name",
            r#"{"tool": "files.write", "arguments": {}}"#,
            "tool_not_granted",
        ),
        call(
            "tool_other_case",
            "tools are compared byte by byte",
            r#"{"tool": "Files.read", "arguments": {}}"#,
            "tool_not_granted",
        ),
        call(
            "tool_prefix",
            "the beginning of a granted name",
            r#"{"tool": "files", "arguments": {}}"#,
            "tool_not_granted",
        ),
        call("argument_beyond", "a path outside of the prefix", &read(r#""/etc/passwd""#), beyond),
        call(
            "argument_climbs",
            "a path that climbs out",
            &read(r#""/srv/reports/../../etc/passwd""#),
            beyond,
        ),
        call(
            "argument_climbs_encoded",
            "the same, percent-encoded",
            &read(r#""/srv/reports/%2e%2e/x""#),
            beyond,
        ),
        call(
            "argument_of_another_type",
            "an array instead of a string",
            &read(r#"["/srv/reports/a"]"#),
            beyond,
        ),
        call(
            "argument_missing",
            "the limited argument is missing",
            r#"{"tool": "files.read", "arguments": {}}"#,
            beyond,
        ),
        call(
            "arguments_missing",
            "no arguments at all",
            r#"{"tool": "files.read", "arguments": null}"#,
            beyond,
        ),
    ]
}
