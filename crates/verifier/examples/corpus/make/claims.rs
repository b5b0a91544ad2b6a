//! Truly signed tokens whose claims are not as they must be.

use super::case::{AGENT, AUDIENCE, Case, ISSUER, NOW, case, child, payload, quoted, root, task, taskpass};
use super::good::ahead;
use super::signers::Signers;

pub(crate) fn cases(s: &Signers) -> Vec<Case> {
    let mut all = times(s);
    all.extend(addresses(s));
    all.extend(forms(s));
    all.extend(tasks(s));
    all
}

fn times(s: &Signers) -> Vec<Case> {
    let with = |iat: u64, nbf: u64, exp: u64| {
        let [iat, nbf, exp] = [iat, nbf, exp].map(|time| time.to_string());
        s.sign(payload(&[("iat", &iat), ("nbf", &nbf), ("exp", &exp)]))
    };
    let exp = |text: &str| s.sign(payload(&[("exp", text)]));
    let malformed = "malformed_claim";
    vec![
        case("expired", "exp is now: there is no leeway", with(NOW - 60, NOW - 60, NOW), "expired"),
        case(
            "expired_long_ago",
            "exp was an hour ago",
            with(NOW - 3_700, NOW - 3_700, NOW - 3_600),
            "expired",
        ),
        case("not_yet_valid", "nbf in six seconds", with(NOW, NOW + 6, NOW + 60), "not_yet_valid"),
        case("issued_in_future", "iat in six seconds", s.sign(ahead(6)), "issued_in_future"),
        case("lives_too_long", "a lifetime of 901 seconds", with(NOW, NOW, NOW + 901), "lifetime_too_long"),
        case("never_valid", "exp is nbf", with(NOW - 60, NOW, NOW), "empty_lifetime"),
        case("exp_missing", "no exp", exp(""), "claim_missing"),
        case("exp_text", "exp as a string", exp("\"1790000120\""), malformed),
        case("exp_fraction", "exp with a fraction", exp("1790000120.5"), malformed),
        case("exp_exponent", "exp with an exponent", exp("1.790000120e9"), malformed),
        case("exp_negative", "exp before the epoch", exp("-1"), malformed),
        case("exp_beyond_64_bits", "exp of 20 digits and more", exp("99999999999999999999999"), malformed),
        case("exp_null", "exp is null", exp("null"), malformed),
    ]
}

fn addresses(s: &Signers) -> Vec<Case> {
    let with = |name: &str, value: &str| s.sign(payload(&[(name, value)]));
    let two = format!(r#"["{AUDIENCE}","https://other.example/mcp"]"#);
    vec![
        case(
            "wrong_issuer",
            "another issuer",
            with("iss", r#""https://taskpass.example/other""#),
            "wrong_issuer",
        ),
        case(
            "issuer_with_slash",
            "the issuer with a slash behind",
            with("iss", &format!("\"{ISSUER}/\"")),
            "wrong_issuer",
        ),
        case(
            "wrong_audience",
            "another audience",
            with("aud", r#""https://other.example/mcp""#),
            "wrong_audience",
        ),
        case(
            "audience_origin_only",
            "the origin without the path",
            with("aud", r#""https://files.example""#),
            "wrong_audience",
        ),
        case(
            "audience_other_case",
            "the audience in upper case",
            with("aud", r#""https://FILES.example/mcp""#),
            "wrong_audience",
        ),
        case("two_audiences", "an array of two, ours among them", with("aud", &two), "malformed_claim"),
        case(
            "audience_array_of_one",
            "an array of one",
            with("aud", &format!("[\"{AUDIENCE}\"]")),
            "malformed_claim",
        ),
        case("audience_missing", "no aud", with("aud", ""), "claim_missing"),
        case(
            "client_id_no_spiffe_id",
            "client_id is a URL",
            with("client_id", r#""https://acme.example/a""#),
            "malformed_client_id",
        ),
        case(
            "actor_for_itself",
            "act though sub is the agent",
            with("act", &format!(r#"{{"sub":"{AGENT}"}}"#)),
            "malformed_actor",
        ),
    ]
}

fn forms(s: &Signers) -> Vec<Case> {
    let with = |name: &str, value: &str| s.sign(payload(&[(name, value)]));
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let twice = |first: &str, second: &str| s.sign(payload(&[]).replacen(first, second, 1));
    let aud = format!("\"aud\":\"{AUDIENCE}\"");
    let many: String = (0..256).map(|n| format!(" mcp:tool:t{n}")).collect();
    vec![
        case("payload_not_json", "a payload that is not JSON", s.sign("{"), "claims_not_json"),
        case("payload_trailing_text", "two objects", s.sign(payload(&[]) + "{}"), "claims_not_json"),
        case(
            "payload_not_utf8",
            "bytes that are not UTF-8",
            s.sign(b"{\"iss\":\"\xff\"}"),
            "claims_not_json",
        ),
        case("payload_array", "an array", s.sign("[]"), "malformed_claim"),
        case("payload_empty_object", "no claim at all", s.sign("{}"), "claim_missing"),
        case("payload_deep", "2,000 nested arrays as a claim", with("sub", &deep), "malformed_claim"),
        case(
            "payload_deep_unknown",
            "the same in a member that is not known",
            with("x", &deep),
            "claim_not_allowed",
        ),
        case(
            "unknown_claim",
            "a claim that could be a restriction",
            with("readonly", "true"),
            "claim_not_allowed",
        ),
        case(
            "audience_twice",
            "two members aud, ours last",
            twice(&aud, &format!(r#""aud":"x",{aud}"#)),
            "duplicate_member",
        ),
        case(
            "audience_twice_escaped",
            "the second spelt with an escape",
            twice(&aud, &format!(r#"{aud},"\u0061ud":"x""#)),
            "duplicate_member",
        ),
        case(
            "scope_wildcard",
            "a wildcard in the scope",
            with("scope", "\"mcp mcp:tool:*\""),
            "malformed_scope",
        ),
        case(
            "scope_two_spaces",
            "two spaces in the scope",
            with("scope", "\"mcp  mcp:tool:files.read\""),
            "malformed_scope",
        ),
        case(
            "scope_without_mcp",
            "a scope that does not admit",
            with("scope", "\"mcp:tool:files.read\""),
            "malformed_scope",
        ),
        case("scope_array", "the scope as an array", with("scope", "[\"mcp\"]"), "malformed_claim"),
        case("scope_too_many", "257 items", with("scope", &format!("\"mcp{many}\"")), "too_many_scope_items"),
        case(
            "details_beyond_scope",
            "details of a tool that the scope lacks",
            details(s, "files.write"),
            "malformed_details",
        ),
        case(
            "details_empty",
            "authorization_details without an object",
            with("authorization_details", "[]"),
            "malformed_details",
        ),
        case(
            "details_other_type",
            "details of another type",
            with(
                "authorization_details",
                r#"[{"type":"payment","tool":"files.read","constraints":{"path":{"prefix":"/"}}}]"#,
            ),
            "malformed_details",
        ),
        case(
            "details_unknown_limit",
            "a limit that is not known",
            with(
                "authorization_details",
                r#"[{"type":"mcp_tool_call","tool":"files.read","constraints":{"path":{"regex":".*"}}}]"#,
            ),
            "claim_not_allowed",
        ),
    ]
}

fn details(s: &Signers, tool: &str) -> String {
    let details = format!(
        r#"[{{"type":"mcp_tool_call","tool":"{tool}","constraints":{{"path":{{"prefix":"/srv/"}}}}}}]"#
    );
    s.sign(payload(&[("authorization_details", &details)]))
}

fn tasks(s: &Signers) -> Vec<Case> {
    let with = |changes: &[(&str, &str)]| s.sign(payload(&[("taskpass", &taskpass(changes))]));
    let other = quoted(&format!("{}00000003", hex(task(9).as_bytes())));
    let nine: Vec<_> = (10..19).map(|n| format!("\"{}\"", task(n))).collect();
    let nine = format!("[{}]", nine.join(","));
    let itself = format!("[\"{}\",\"{}\"]", root(), child());
    let upper = quoted(&child().to_string().to_uppercase());
    let broken = "broken_lineage";
    vec![
        case(
            "jti_of_another_task",
            "the jti names another task",
            s.sign(payload(&[("jti", &other)])),
            "jti_of_another_task",
        ),
        case(
            "txn_not_the_root",
            "txn is not the first of the lineage",
            s.sign(payload(&[("txn", &quoted(&task(9).to_string()))])),
            broken,
        ),
        case("lineage_of_nine", "nine ancestors", with(&[("lineage", &nine)]), broken),
        case("lineage_with_itself", "the task among its ancestors", with(&[("lineage", &itself)]), broken),
        case("task_in_upper_case", "the task in upper case", with(&[("task", &upper)]), "malformed_claim"),
        case(
            "generation_missing",
            "no generation",
            s.sign(payload(&[]).replacen("\"gen\"", "\"generation\"", 1)),
            "claim_not_allowed",
        ),
        case(
            "task_claim_twice",
            "two members seq",
            s.sign(payload(&[]).replacen("\"seq\":41", "\"seq\":41,\"seq\":1", 1)),
            "duplicate_member",
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
