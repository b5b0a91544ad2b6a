//! Limits on arguments: what they permit, and when one lies within another.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use taskpass_verifier::constraint::{ArgumentConstraint, Constraints, InvalidConstraint, Limits, Scalar};

fn constraint(json: Value) -> ArgumentConstraint {
    serde_json::from_value(json).unwrap()
}

fn permits(limits: Value, value: Value) -> bool {
    constraint(limits).permits(&value)
}

#[test]
fn one_of_compares_type_and_value() {
    let limits = json!({ "one_of": ["eu", 1, true] });
    for good in [json!("eu"), json!(1), json!(true)] {
        assert!(permits(limits.clone(), good));
    }
    for bad in
        [json!("EU"), json!("1"), json!(1.0), json!(1.5), json!(false), json!(null), json!(["eu"]), json!({})]
    {
        assert!(!permits(limits.clone(), bad.clone()), "{bad}");
    }
}

#[test]
fn a_prefix_holds_paths_and_addresses_inside() {
    let path = json!({ "prefix": "/srv/reports/" });
    for good in [
        "/srv/reports/",
        "/srv/reports/q3.csv",
        "/srv/reports/a..b/..c/d..",
        "/srv/reports/...",
        "/srv/reports/é",
    ] {
        assert!(permits(path.clone(), json!(good)), "{good}");
    }
    for bad in [
        "/srv/report",
        "/srv/reports",
        "srv/reports/x",
        "/SRV/reports/x",
        "/srv/reports/..",
        "/srv/reports/../x",
        "/srv/reports/a/../../x",
        "/srv/reports/%2e%2e/x",
        "/srv/reports/.%2E/x",
        "/srv/reports/a%2f..%2Fx",
        "/srv/reports/..\\x",
        "/srv/reports/a%5c..%5Cx",
        "/srv/reports/.\t./x",
        "/srv/reports/..\0.csv",
    ] {
        assert!(!permits(path.clone(), json!(bad)), "{bad}");
    }
    for bad in [json!(7), json!(null), json!(["/srv/reports/x"])] {
        assert!(!permits(path.clone(), bad));
    }
}

#[test]
fn numbers_are_compared_exactly_and_text_is_no_number() {
    let limits = json!({ "minimum": 1, "maximum": 100 });
    for good in [json!(1), json!(100), json!(99.5), json!(1.0)] {
        assert!(permits(limits.clone(), good.clone()), "{good}");
    }
    for bad in [
        json!(0),
        json!(101),
        json!(100.1),
        json!(0.99),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!("5"),
        json!(true),
        json!(null),
    ] {
        assert!(!permits(limits.clone(), bad.clone()), "{bad}");
    }
    let edge = json!({ "maximum": 9_007_199_254_740_991_i64 });
    assert!(permits(edge.clone(), json!(9_007_199_254_740_991_i64)));
    assert!(!permits(edge.clone(), json!(9_007_199_254_740_992_i64)));
    assert!(!permits(edge, json!(9_007_199_254_740_992.0)));
}

#[test]
fn length_is_counted_in_code_points() {
    let limits = json!({ "max_length": 3 });
    for good in ["", "abc", "äöü", "😀😀😀"] {
        assert!(permits(limits.clone(), json!(good)), "{good}");
    }
    for bad in [json!("abcd"), json!("😀😀😀😀"), json!(1), json!([])] {
        assert!(!permits(limits.clone(), bad));
    }
    assert!(permits(json!({ "max_length": 0 }), json!("")));
    assert!(permits(json!({ "max_length": u32::MAX }), json!("x")));
}

#[test]
fn each_limit_that_is_given_must_hold() {
    let limits = json!({ "one_of": ["/a/x", "/b/x", "/a/too-long"], "prefix": "/a/", "max_length": 4 });
    assert!(permits(limits.clone(), json!("/a/x")));
    assert!(!permits(limits.clone(), json!("/b/x")));
    assert!(!permits(limits, json!("/a/too-long")));
}

#[test]
fn a_constraint_that_is_empty_contradictory_oversized_or_unknown_is_refused() {
    let long = "x".repeat(1025);
    for bad in [
        json!({}),
        json!({ "pattern": ".*" }),
        json!({ "prefix": "/", "pattern": ".*" }),
        json!({ "one_of": [] }),
        json!({ "one_of": vec!["x"; 65] }),
        json!({ "one_of": [long] }),
        json!({ "one_of": [1.5] }),
        json!({ "one_of": [null] }),
        json!({ "one_of": [["x"]] }),
        json!({ "one_of": [u64::MAX] }),
        json!({ "one_of": "x" }),
        json!({ "one_of": null, "prefix": "/" }),
        json!({ "prefix": "" }),
        json!({ "prefix": long }),
        json!({ "prefix": 7 }),
        json!({ "prefix": "/", "minimum": 1 }),
        json!({ "max_length": 1, "maximum": 1 }),
        json!({ "minimum": 2, "maximum": 1 }),
        json!({ "minimum": 1.0 }),
        json!({ "minimum": "1" }),
        json!({ "minimum": -9_007_199_254_740_992_i64 }),
        json!({ "maximum": i64::MIN }),
        json!({ "max_length": -1 }),
        json!({ "max_length": 1_u64 << 32 }),
        json!([null, "/"]),
        json!("/"),
        json!(null),
    ] {
        assert!(serde_json::from_value::<ArgumentConstraint>(bad.clone()).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<ArgumentConstraint>(r#"{"prefix":"/a","prefix":"/"}"#).is_err());
}

#[test]
fn constraints_name_each_argument_once_and_not_too_many() {
    let bad = |text: &str| serde_json::from_str::<Constraints>(text).is_err();
    assert!(bad(r#"{"a":{"minimum":1},"a":{"minimum":0}}"#));
    assert!(bad(r#"{"":{"minimum":1}}"#));
    assert!(bad("[]") && bad("null"));
    let one = constraint(json!({ "minimum": 1 }));
    assert!(Constraints::new([("a".into(), one.clone()), ("a".into(), one.clone())]).is_err());
    assert!(Constraints::new([("x".repeat(129), one.clone())]).is_err());
    let many = |n: usize| Constraints::new((0..n).map(|i| (i.to_string(), one.clone())));
    assert_eq!(many(64).unwrap().iter().count(), 64);
    assert!(many(65).is_err());
}

#[test]
fn a_call_must_bring_every_limited_argument() {
    let constraints: Constraints =
        serde_json::from_value(json!({ "a": { "minimum": 1 }, "b": { "prefix": "x" } })).unwrap();
    let call = |arguments: Value| constraints.permits_call(arguments.as_object().unwrap());
    assert!(call(json!({ "a": 1, "b": "xy", "c": [1] })));
    assert!(!call(json!({ "a": 1 })) && !call(json!({ "b": "xy" })) && !call(json!({ "a": 0, "b": "xy" })));
    assert!(Constraints::default().permits_call(&Map::new()));
}

#[test]
fn what_is_narrower_lies_within() {
    for (narrow, wide) in [
        (json!({ "one_of": ["a"] }), json!({ "one_of": ["a", "b"] })),
        (json!({ "one_of": ["/a/x"] }), json!({ "prefix": "/a/" })),
        (json!({ "one_of": ["/a/x", "zz"], "prefix": "/a/" }), json!({ "one_of": ["/a/x", "/a/y"] })),
        (json!({ "prefix": "/a/b/" }), json!({ "prefix": "/a/" })),
        (json!({ "prefix": "/a/", "max_length": 9 }), json!({ "max_length": 10 })),
        (json!({ "minimum": 2, "maximum": 3 }), json!({ "minimum": 2 })),
        (json!({ "one_of": [1, 2] }), json!({ "maximum": 2 })),
    ] {
        assert!(constraint(narrow.clone()).is_within(&constraint(wide.clone())), "{narrow} {wide}");
        assert!(!constraint(wide.clone()).is_within(&constraint(narrow.clone())), "{wide} {narrow}");
    }
    assert!(!constraint(json!({ "one_of": ["/a/../x"] })).is_within(&constraint(json!({ "prefix": "/a/" }))));
    assert!(!constraint(json!({ "minimum": 1 })).is_within(&constraint(json!({ "max_length": 1 }))));
}

#[test]
fn constraints_narrow_by_limiting_more_arguments() {
    let read = |json: Value| serde_json::from_value::<Constraints>(json).unwrap();
    let (none, one) = (Constraints::default(), read(json!({ "a": { "maximum": 5 } })));
    let both = read(json!({ "a": { "maximum": 4 }, "b": { "prefix": "x" } }));
    assert!(both.is_within(&one) && one.is_within(&none) && both.is_within(&none) && none.is_within(&none));
    assert!(!one.is_within(&both) && !none.is_within(&one));
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        text().prop_map(Scalar::String),
        (-4i64..4).prop_map(Scalar::Integer),
        any::<bool>().prop_map(Scalar::Boolean)
    ]
}

fn text() -> impl Strategy<Value = String> {
    "[ab/.]{0,5}"
}

fn any_constraint() -> impl Strategy<Value = Result<ArgumentConstraint, InvalidConstraint>> {
    let one_of = prop::option::of(prop::collection::vec(scalar(), 1..4));
    let limit = || prop::option::of(-4i64..4);
    (one_of, prop::option::of(text()), limit(), limit(), prop::option::of(0u32..6)).prop_map(
        |(one_of, prefix, minimum, maximum, max_length)| {
            ArgumentConstraint::new(Limits { one_of, prefix, minimum, maximum, max_length })
        },
    )
}

/// Strings of up to four characters, numbers and the rest, all in the reach of `any_constraint`.
fn all_values() -> Vec<Value> {
    let mut texts = vec![String::new()];
    for length in 0..4 {
        let longest: Vec<_> = texts.iter().filter(|text| text.len() == length).cloned().collect();
        texts.extend(longest.iter().flat_map(|text| "ab/.".chars().map(move |c| format!("{text}{c}"))));
    }
    let halves = (-10..10).map(|n| Value::from(f64::from(n) / 2.0));
    let others = [json!(true), json!(false), json!(null), json!([]), json!({})];
    texts.into_iter().map(Value::from).chain((-5..5).map(Value::from)).chain(halves).chain(others).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn within_never_says_yes_to_what_is_wider(a in any_constraint(), b in any_constraint()) {
        let (Ok(a), Ok(b)) = (a, b) else { return Ok(()) };
        prop_assert!(a.is_within(&a));
        if a.is_within(&b) {
            for value in VALUES.iter() {
                prop_assert!(!a.permits(value) || b.permits(value), "{a:?} {b:?} {value}");
            }
        }
    }

    #[test]
    fn a_constraint_reads_back_as_it_was_written(a in any_constraint()) {
        if let Ok(a) = a {
            let text = serde_json::to_string(&a).unwrap();
            prop_assert_eq!(serde_json::from_str::<ArgumentConstraint>(&text).unwrap(), a);
        }
    }
}

static VALUES: std::sync::LazyLock<Vec<Value>> = std::sync::LazyLock::new(all_values);
