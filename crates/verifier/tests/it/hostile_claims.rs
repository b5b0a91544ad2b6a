//! Truly signed tokens whose claims are not what the profile says.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use taskpass_verifier::Refusal;

use crate::support::{AGENT, Issuer, claims_json, person_through_agent, task, with};

static ISSUER: LazyLock<Issuer> = LazyLock::new(Issuer::new);

fn refusal(claims: &Value) -> Refusal {
    ISSUER.judge(claims).expect_err(&claims.to_string())
}

/// The refusal of good claims with the value at a JSON pointer replaced.
fn changed(pointer: &str, value: Value) -> Refusal {
    refusal(&with(|claims| *claims.pointer_mut(pointer).unwrap() = value))
}

/// The refusal of good claims as text with one piece replaced.
fn rewritten(piece: &str, by: &str) -> Refusal {
    let text = claims_json().to_string();
    assert!(text.contains(piece), "{piece} in {text}");
    ISSUER.verify(&ISSUER.sign_claims(text.replacen(piece, by, 1))).expect_err(by)
}

const OPTIONAL: [&str; 3] = ["authorization_details", "cnf", "act"];

#[test]
fn each_claim_that_is_not_optional_must_be_there() {
    let names: Vec<String> = claims_json().as_object().unwrap().keys().cloned().collect();
    let mut needed = 0;
    for name in &names {
        let claims = with(|claims| drop(claims.as_object_mut().unwrap().remove(name)));
        if OPTIONAL.contains(&name.as_str()) {
            assert!(ISSUER.judge(&claims).is_ok(), "{name}");
        } else {
            assert_eq!(refusal(&claims), Refusal::ClaimMissing, "{name}");
            needed += 1;
        }
    }
    assert_eq!(needed, 11);
    for name in ["task", "lineage", "goal", "gen", "seq"] {
        let claims = with(|claims| drop(claims["taskpass"].as_object_mut().unwrap().remove(name)));
        assert_eq!(refusal(&claims), Refusal::ClaimMissing, "{name}");
    }
    for name in ["type", "tool", "constraints"] {
        let claims =
            with(|claims| drop(claims["authorization_details"][0].as_object_mut().unwrap().remove(name)));
        assert_eq!(refusal(&claims), Refusal::ClaimMissing, "{name}");
    }
}

#[test]
fn a_claim_that_is_not_known_could_be_a_restriction_and_is_refused() {
    for place in ["", "/taskpass", "/authorization_details/0", "/authorization_details/0/constraints/path"] {
        let claims = with(|claims| claims.pointer_mut(place).unwrap()["only_on_sundays"] = json!(true));
        assert_eq!(refusal(&claims), Refusal::ClaimNotAllowed, "{place}");
    }
}

#[test]
fn null_stands_for_nothing() {
    for name in OPTIONAL {
        assert_eq!(refusal(&with(|claims| claims[name] = json!(null))), Refusal::MalformedClaim, "{name}");
    }
    for name in claims_json().as_object().unwrap().keys() {
        assert_eq!(changed(&format!("/{name}"), json!(null)), Refusal::MalformedClaim, "{name}");
    }
}

#[test]
fn times_are_integers_and_nothing_else() {
    for name in ["/iat", "/nbf", "/exp", "/taskpass/seq"] {
        let good = claims_json().pointer(name).unwrap().as_u64().unwrap();
        for bad in
            [json!(good as f64), json!(good.to_string()), json!(-1), json!([good]), json!(true), json!({})]
        {
            assert_eq!(changed(name, bad.clone()), Refusal::MalformedClaim, "{name} {bad}");
        }
    }
    for (bad, refusal) in [
        ("1790000120.0", Refusal::MalformedClaim),
        ("1.79000012e9", Refusal::MalformedClaim),
        ("1790000120e0", Refusal::MalformedClaim),
        ("-0", Refusal::MalformedClaim),
        ("18446744073709551616", Refusal::MalformedClaim),
        ("01790000120", Refusal::ClaimsNotJson),
        ("+1790000120", Refusal::ClaimsNotJson),
        ("0x6ab13c78", Refusal::ClaimsNotJson),
        ("NaN", Refusal::ClaimsNotJson),
    ] {
        assert_eq!(rewritten("1790000120", bad), refusal, "{bad}");
    }
}

#[test]
fn strings_are_strings() {
    for name in ["iss", "sub", "aud", "client_id", "jti", "scope", "txn"] {
        let good = claims_json()[name].clone();
        for bad in [json!([good]), json!({ "value": good }), json!(7), json!(true)] {
            assert_eq!(changed(&format!("/{name}"), bad.clone()), Refusal::MalformedClaim, "{name} {bad}");
        }
    }
}

#[test]
fn an_object_cannot_be_written_as_an_array_of_its_values() {
    let values = |object: &Value| Value::Array(object.as_object().unwrap().values().cloned().collect());
    let ordered: Value = {
        let c = claims_json();
        let names =
            ["iss", "sub", "aud", "client_id", "jti", "iat", "nbf", "exp", "scope", "authorization_details"];
        Value::Array(names.iter().map(|name| c[*name].clone()).collect())
    };
    assert_eq!(refusal(&ordered), Refusal::MalformedClaim);
    let t = claims_json()["taskpass"].clone();
    let array = json!([t["task"], t["lineage"], t["goal"], t["gen"], t["seq"]]);
    assert_eq!(changed("/taskpass", array), Refusal::MalformedClaim);
    let d = claims_json()["authorization_details"][0].clone();
    let array = json!([d["type"], d["tool"], d["constraints"]]);
    assert_eq!(changed("/authorization_details/0", array), Refusal::MalformedClaim);
    assert_eq!(
        changed("/authorization_details/0/constraints/path", json!([null, "/"])),
        Refusal::MalformedClaim
    );
    assert_eq!(
        changed("/authorization_details/0/constraints", values(&d["constraints"])),
        Refusal::MalformedClaim
    );
    let actor = with(|claims| {
        person_through_agent(claims);
        claims["act"] = json!([AGENT]);
    });
    assert_eq!(refusal(&actor), Refusal::MalformedClaim);
    assert_eq!(refusal(&json!(["x"])), Refusal::MalformedClaim);
}

#[test]
fn two_members_of_one_name_are_refused_in_every_object() {
    for (piece, by) in [
        (r#""exp":"#, r#""exp":1790000120,"exp":"#),
        (r#""exp":"#, r#""\u0065xp":1,"exp":"#),
        (r#""aud":"#, r#""aud":"https://mail.example/mcp","aud":"#),
        (r#""seq":"#, r#""seq":41,"seq":"#),
        (r#""tool":"#, r#""tool":"files.read","tool":"#),
        (r#""constraints":{"#, r#""constraints":{"path":{"prefix":"/"},"#),
        (r#""prefix":"#, r#""prefix":"/","prefix":"#),
        (r#""taskpass":"#, r#""taskpass":{},"taskpass":"#),
    ] {
        let verdict = rewritten(piece, by);
        let malformed_first = by.contains("{},");
        let expected = if malformed_first { Refusal::ClaimMissing } else { Refusal::DuplicateMember };
        assert_eq!(verdict, expected, "{by}");
    }
}

#[test]
fn the_audience_is_one_string() {
    let aud = claims_json()["aud"].clone();
    for bad in [json!([aud]), json!([aud, "https://mail.example/mcp"]), json!([])] {
        assert_eq!(changed("/aud", bad), Refusal::MalformedClaim);
    }
}

#[test]
fn the_agent_is_a_spiffe_id_with_a_path() {
    for bad in
        ["", "researcher", "spiffe://acme.example", "spiffe://ACME.example/x", "https://acme.example/x"]
    {
        assert_eq!(changed("/client_id", json!(bad)), Refusal::MalformedClientId, "{bad}");
    }
    assert_eq!(changed("/sub", json!("")), Refusal::MalformedClaim);
}

#[test]
fn actors_are_named_only_for_somebody_else_and_begin_with_the_agent() {
    let act = |sub: &str, act: Value| {
        ISSUER.judge(&with(|claims| {
            claims["sub"] = json!(sub);
            claims["act"] = act;
        }))
    };
    let nested = |n: usize| {
        let earlier = (1..n).fold(None, |inner: Option<Value>, i| {
            let mut actor = json!({ "sub": format!("actor {i}") });
            if let Some(inner) = inner {
                actor["act"] = inner;
            }
            Some(actor)
        });
        let mut actor = json!({ "sub": AGENT });
        if let Some(earlier) = earlier {
            actor["act"] = earlier;
        }
        actor
    };
    assert!(act("user", nested(1)).is_ok() && act("user", nested(8)).is_ok());
    assert_eq!(act("user", nested(9)), Err(Refusal::MalformedActor));
    assert_eq!(act(AGENT, nested(1)), Err(Refusal::MalformedActor));
    assert_eq!(act("user", json!({ "sub": "spiffe://acme.example/other" })), Err(Refusal::MalformedActor));
    assert_eq!(act("user", json!({ "sub": AGENT, "iss": "x" })), Err(Refusal::ClaimNotAllowed));
    assert_eq!(act("user", json!({ "sub": AGENT, "act": null })), Err(Refusal::MalformedClaim));
    assert_eq!(act("user", json!(AGENT)), Err(Refusal::MalformedClaim));
}

#[test]
fn the_credential_belongs_to_the_task_and_the_task_to_its_tree() {
    let id = |partition, n| json!(task(partition, n));
    let other = format!("{}00000003", task(7, 9).to_string().replace('-', ""));
    assert_eq!(changed("/jti", json!(other)), Refusal::JtiOfAnotherTask);
    assert_eq!(changed("/taskpass/task", id(7, 9)), Refusal::JtiOfAnotherTask);
    assert_eq!(changed("/txn", id(7, 2)), Refusal::BrokenLineage);
    assert_eq!(changed("/taskpass/lineage", json!([])), Refusal::BrokenLineage);
    assert_eq!(changed("/taskpass/lineage/0", id(7, 9)), Refusal::BrokenLineage);
    let lineage = |lineage: Vec<Value>| {
        ISSUER.judge(&with(|claims| {
            claims["txn"] = lineage.first().cloned().unwrap_or_else(|| id(7, 2));
            claims["taskpass"]["lineage"] = Value::Array(lineage);
        }))
    };
    assert!(lineage(vec![]).is_ok());
    assert!(lineage((10..18).map(|n| id(7, n)).collect()).is_ok());
    for broken in [
        (10..19).map(|n| id(7, n)).collect(),
        vec![id(8, 10)],
        vec![id(7, 10), id(6, 11)],
        vec![id(7, 10), id(7, 10)],
        vec![id(7, 10), id(7, 2)],
        vec![id(7, 2)],
    ] {
        assert_eq!(lineage(broken), Err(Refusal::BrokenLineage));
    }
}

#[test]
fn ids_and_digests_have_one_spelling() {
    let good = claims_json();
    let upper = |pointer: &str| json!(good.pointer(pointer).unwrap().as_str().unwrap().to_uppercase());
    for pointer in ["/jti", "/txn", "/taskpass/task"] {
        assert_eq!(changed(pointer, upper(pointer)), Refusal::MalformedClaim, "{pointer}");
    }
    for (pointer, bad) in [
        ("/jti", "01:02"),
        ("/jti", ""),
        ("/txn", "{01a0c49e-dcf0-7202-8702-020202020202}"),
        ("/taskpass/gen", "01"),
        ("/taskpass/goal", "AAAA"),
        ("/taskpass/lineage/0", "root"),
    ] {
        assert_eq!(changed(pointer, json!(bad)), Refusal::MalformedClaim, "{pointer} {bad}");
    }
    let goal = good["taskpass"]["goal"].as_str().unwrap();
    assert_eq!(changed("/taskpass/goal", json!(format!("{goal}="))), Refusal::MalformedClaim);
}

#[test]
fn a_scope_is_admission_and_then_tools_with_single_spaces() {
    for bad in [
        "",
        " ",
        "MCP",
        "mcp ",
        " mcp",
        "mcp  mcp:tool:x",
        "mcp\tmcp:tool:x",
        "mcp:tool:x",
        "mcp:tool:x mcp",
        "mcp mcp",
        "mcp mcp:tool:",
        "mcp mcp:tool:*",
        "mcp mcp:tool:a:b",
        "mcp mcp:tool:é",
        "mcp mcp:*",
        "mcp mcp:resource:x",
        "mcp openid",
    ] {
        assert_eq!(changed("/scope", json!(bad)), Refusal::MalformedScope, "{bad}");
    }
    assert_eq!(
        changed("/scope", json!(format!("mcp mcp:tool:{}", "x".repeat(129)))),
        Refusal::MalformedScope
    );
}

#[test]
fn a51_ten_thousand_scopes_are_refused() {
    let scope = |n: usize| json!("mcp".to_owned() + &" mcp:tool:x".repeat(n));
    let claims = |n: usize| {
        with(|claims| {
            claims["scope"] = scope(n);
            claims.as_object_mut().unwrap().remove("authorization_details");
        })
    };
    assert_eq!(refusal(&claims(10_000)), Refusal::TooLong);
    assert!(ISSUER.judge(&claims(255)).is_ok());
    assert_eq!(refusal(&claims(256)), Refusal::TooManyScopeItems);
}

#[test]
fn details_narrow_tools_of_the_scope_each_once() {
    let detail = |tool: &str| json!({ "type": "mcp_tool_call", "tool": tool, "constraints": { "a": { "minimum": 1 } } });
    let details =
        |details: Value| ISSUER.judge(&with(|claims| claims["authorization_details"] = details)).map(drop);
    assert_eq!(details(json!([detail("files.read"), detail("web/search")])), Ok(()));
    let mut foreign = detail("files.read");
    foreign["type"] = json!("payment");
    let mut limitless = detail("files.read");
    limitless["constraints"] = json!({});
    for bad in [
        json!([]),
        json!([detail("files.read"), detail("files.read")]),
        json!([detail("files.write")]),
        json!([detail("*")]),
        json!([detail("")]),
        json!([foreign]),
        json!([limitless]),
    ] {
        assert_eq!(details(bad.clone()), Err(Refusal::MalformedDetails), "{bad}");
    }
    for bad in [json!({}), json!("x"), json!([[]]), json!([detail("files.read"), null])] {
        assert_eq!(details(bad.clone()), Err(Refusal::MalformedClaim), "{bad}");
    }
}

#[test]
fn a51_deep_json_is_refused() {
    for (open, close) in [("[", "]"), (r#"{"act":"#, "}"), (r#"{"sub":"x","act":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(300), close.repeat(300));
        assert!(ISSUER.verify(&ISSUER.sign_claims(&deep)).is_err());
        for name in ["act", "cnf", "authorization_details", "taskpass", "zzz"] {
            let text = format!(r#"{{"{name}":{deep},"#);
            let text = claims_json().to_string().replacen('{', &text, 1);
            assert!(ISSUER.verify(&ISSUER.sign_claims(&text)).is_err(), "{name} {open}");
        }
    }
}

#[test]
fn a51_text_that_is_not_utf8_or_not_json_is_refused() {
    for bad in [b"\xff".to_vec(), b"{\"iss\":\"\xff\xfe\"}".to_vec(), b"{\"iss\":\"\xed\xa0\x80\"}".to_vec()]
    {
        assert_eq!(ISSUER.verify(&ISSUER.sign_claims(bad)), Err(Refusal::ClaimsNotJson));
    }
    for (piece, by) in
        [("{\"", "{ /* */ \""), ("}", ",}"), ("\"iss\"", "'iss'"), ("\"iss\":\"", "\"iss\":\"\\ud800")]
    {
        assert_eq!(rewritten(piece, by), Refusal::ClaimsNotJson, "{by}");
    }
    let text = claims_json().to_string();
    for bad in [format!("{text}{text}"), format!("{text}\0"), format!("\u{feff}{text}"), String::new()] {
        assert_eq!(ISSUER.verify(&ISSUER.sign_claims(bad)), Err(Refusal::ClaimsNotJson));
    }
    for end in 0..text.len() {
        assert_eq!(
            ISSUER.verify(&ISSUER.sign_claims(&text.as_bytes()[..end])),
            Err(Refusal::ClaimsNotJson),
            "{end}"
        );
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn signed_bytes_of_any_kind_never_panic(payload in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(ISSUER.verify(&ISSUER.sign_claims(payload)).is_err());
    }

    #[test]
    fn any_value_in_the_place_of_a_claim_never_panics(index in 0usize..14, value in json_value()) {
        let claims = with(|claims| {
            let claims = claims.as_object_mut().unwrap();
            let name = claims.keys().nth(index % claims.len()).unwrap().clone();
            claims.insert(name, value);
        });
        let _ = ISSUER.judge(&claims);
    }
}
