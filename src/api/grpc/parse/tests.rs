use prost_types::Duration as ProtoDuration;

use super::*;

fn grant(tools: &[&str]) -> proto::Grant {
    let tools = tools.iter().map(|t| proto::ToolGrant { name: (*t).to_owned(), ..Default::default() });
    proto::Grant { audience: "https://mcp.example.org/mail".to_owned(), tools: tools.collect() }
}

fn begin() -> proto::BeginTaskRequest {
    proto::BeginTaskRequest {
        goal: "summarise the inbox".to_owned(),
        grants: vec![grant(&["read_mail"])],
        lifetime: Some(ProtoDuration { seconds: 60, nanos: 0 }),
        ..Default::default()
    }
}

fn refused(message: proto::BeginTaskRequest) -> (Reason, String) {
    let error = begin_task(message).expect_err("must be refused");
    (error.reason(), error.public().to_owned())
}

fn lifetime(seconds: i64, nanos: i32) -> proto::BeginTaskRequest {
    proto::BeginTaskRequest { lifetime: Some(ProtoDuration { seconds, nanos }), ..begin() }
}

#[test]
fn a_well_formed_request_becomes_a_command() {
    let command = begin_task(begin()).expect("good");
    assert_eq!(command.lifetime, Duration::from_secs(60));
    assert_eq!(command.grants.len(), 1);
    assert_eq!((command.subject, command.idempotency_key), (None, None));
}

#[test]
fn a07_no_lifetime_that_is_zero_negative_a_year_or_endless_is_taken() {
    let year = 366 * 24 * 3600;
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, -1), (year, 0), (i64::MAX, 999_999_999), (i64::MIN, 0)] {
        let (reason, sentence) = refused(lifetime(seconds, nanos));
        assert_eq!(reason, Reason::InvalidDuration, "{seconds} s {nanos} ns");
        assert!(sentence.starts_with("lifetime:"), "{sentence}");
    }
    assert!(begin_task(lifetime(year - 1, 0)).is_ok());
    assert!(begin_task(lifetime(0, 1)).is_ok());
}

#[test]
fn what_is_missing_is_named() {
    assert!(refused(proto::BeginTaskRequest { goal: String::new(), ..begin() }).1.starts_with("goal:"));
    assert!(refused(proto::BeginTaskRequest { grants: Vec::new(), ..begin() }).1.starts_with("grants:"));
    assert!(
        refused(proto::BeginTaskRequest { grants: vec![grant(&[])], ..begin() })
            .1
            .starts_with("grants.tools:")
    );
    assert!(refused(proto::BeginTaskRequest { lifetime: None, ..begin() }).1.starts_with("lifetime:"));
}

#[test]
fn a51_what_is_too_long_or_too_many_is_refused() {
    let long = |n| "x".repeat(n);
    assert!(refused(proto::BeginTaskRequest { goal: long(4097), ..begin() }).1.contains("at most 4096"));
    assert!(begin_task(proto::BeginTaskRequest { goal: long(4096), ..begin() }).is_ok());
    assert!(
        refused(proto::BeginTaskRequest { idempotency_key: long(129), ..begin() }).1.contains("at most 128")
    );
    assert!(refused(proto::BeginTaskRequest { subject: long(257), ..begin() }).1.contains("at most 256"));
    let many: Vec<String> = (0..129).map(|n| format!("tool{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(
        refused(proto::BeginTaskRequest { grants: vec![grant(&many)], ..begin() }).1.contains("1 to 128")
    );
    let audiences =
        (0..17).map(|n| proto::Grant { audience: format!("https://mcp.example.org/{n}"), ..grant(&["t"]) });
    assert!(
        refused(proto::BeginTaskRequest { grants: audiences.collect(), ..begin() }).1.contains("1 to 16")
    );
}

#[test]
fn control_characters_do_not_reach_the_logs() {
    for bad in ["line\u{7}", "a\0b", "esc\u{1b}[31m"] {
        assert!(
            refused(proto::BeginTaskRequest { goal: bad.to_owned(), ..begin() })
                .1
                .contains("control characters")
        );
    }
    assert!(begin_task(proto::BeginTaskRequest { goal: "two\nlines".to_owned(), ..begin() }).is_ok());
}

#[test]
fn the_same_audience_or_tool_twice_is_refused() {
    let twice = vec![grant(&["a"]), grant(&["b"])];
    assert!(refused(proto::BeginTaskRequest { grants: twice, ..begin() }).1.contains("named twice"));
    assert!(
        refused(proto::BeginTaskRequest { grants: vec![grant(&["a", "a"])], ..begin() })
            .1
            .contains("named twice")
    );
}

#[test]
fn tool_names_have_no_wildcards_and_no_spaces() {
    for bad in ["*", "read mail", "", "röntgen", "a\u{200b}b"] {
        assert!(
            begin_task(proto::BeginTaskRequest { grants: vec![grant(&[bad])], ..begin() }).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn a_constraint_must_limit_something_and_hold_json_scalars() {
    let with = |constraint| {
        let mut grant = grant(&["pay"]);
        if let Some(tool) = grant.tools.first_mut() {
            tool.arguments.insert("amount".to_owned(), constraint);
        }
        begin_task(proto::BeginTaskRequest { grants: vec![grant], ..begin() })
    };
    assert!(with(proto::ArgumentConstraint { maximum: Some(10), ..Default::default() }).is_ok());
    assert!(with(proto::ArgumentConstraint::default()).is_err());
    for bad in ["[1]", "{}", "EUR", "1.5", "null"] {
        let constraint =
            proto::ArgumentConstraint { one_of_json: vec![bad.to_owned()], ..Default::default() };
        assert!(with(constraint).is_err(), "{bad}");
    }
}

#[test]
fn page_sizes_and_thumbprints_are_exact() {
    assert_eq!(page_size(0).expect("default"), 100);
    assert!(page_size(-1).is_err() && page_size(501).is_err());
    assert!(thumbprint("x", &[0; 31]).is_err() && thumbprint("x", &[0; 33]).is_err());
    assert!(thumbprint("x", &[0; 32]).expect("good").is_some());
}

#[test]
fn what_cannot_be_a_serial_of_ours_is_inactive_and_no_error() {
    let message = proto::ValidateRequest {
        audience: "https://mcp.example.org/mail".to_owned(),
        credential: Some(proto::validate_request::Credential::CertificateSerial("01:02".to_owned())),
        ..Default::default()
    };
    assert!(matches!(validate(message).expect("well-formed").shown, command::Shown::Nothing));
}

#[test]
fn a44_a_token_in_the_place_of_an_audience_is_not_repeated() {
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl";
    let request = proto::MintTokenRequest {
        task_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
        audience: token.into(),
        ..Default::default()
    };
    let error = mint_token(request).unwrap_err();
    assert_eq!(error.reason(), Reason::UnknownAudience);
    assert!(!error.log_line().contains("eyJ"), "{error:?}");
}
