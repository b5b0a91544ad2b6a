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
    let year = 365 * 24 * 3600;
    for (seconds, nanos) in [(0, 0), (-1, 0), (0, -1), (year, 0), (i64::MAX, 999_999_999), (i64::MIN, 0)] {
        let (reason, sentence) = refused(lifetime(seconds, nanos));
        assert_eq!(reason, Reason::InvalidDuration, "{seconds} s {nanos} ns");
        assert!(sentence.starts_with("lifetime:"), "{sentence}");
    }
    assert!(begin_task(lifetime(year - 1, 0)).is_ok());
    for nanos in [1, 999_999_999] {
        let (reason, sentence) = refused(lifetime(0, nanos));
        assert_eq!(
            (reason, sentence.as_str()),
            (Reason::InvalidDuration, "lifetime: must be a second or more")
        );
    }
    assert!(begin_task(lifetime(1, 0)).is_ok());
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
    for subject in ["ann\n", "a\u{0}b", "\u{7f}", "ann\u{85}", "spiffe://example.org/agent/a1", "SPIFFE:x"] {
        let request = proto::BeginTaskRequest { subject: subject.into(), ..begin() };
        assert!(refused(request).1.contains("subject"), "{subject:?}");
    }
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
fn what_is_not_seen_is_in_no_text_and_is_named() {
    let goal = |goal: String| refused(proto::BeginTaskRequest { goal, ..begin() }).1;
    for range in [
        0x200b..=0x200f,
        0x202a..=0x202e,
        0x2060..=0x2060,
        0x2066..=0x2069,
        0xfeff..=0xfeff,
        0xe_0000..=0xe_007f,
    ] {
        for code in range {
            let hidden = char::from_u32(code).unwrap();
            let said = goal(format!("pay {hidden}the bill"));
            assert!(said.contains(&format!("U+{code:04X}, which ")), "{said}");
            assert!(end_wish(format!("done{hidden}"), None).is_err(), "{code:x}");
        }
    }
    assert!(
        goal("pay\u{202e}".into()).ends_with("goal: must not hold U+202E, which turns the direction of text")
    );
    for blank in [" ", "\n\t ", "\u{a0}\u{3000}"] {
        assert!(goal(blank.into()).starts_with("goal: is blank"));
    }
    // Letters of any script, and what stands on them.
    for good in ["résumé", "הצע מחיר", "計画 \u{1f4c5}", "\u{2764}\u{fe0f} e\u{301}"] {
        assert!(begin_task(proto::BeginTaskRequest { goal: good.into(), ..begin() }).is_ok(), "{good}");
    }
    assert!(end_wish(" ".into(), None).is_ok());
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

fn by_serial(serial: &str) -> Result<command::Shown> {
    let credential = Some(proto::validate_request::Credential::CertificateSerial(serial.to_owned()));
    let audience = "https://mcp.example.org/mail".to_owned();
    validate(proto::ValidateRequest { audience, credential, ..Default::default() }).map(|it| it.shown)
}

const SERIAL: &str = "01890a5dac96774bbcceb302099a805700000003";

#[test]
fn a_serial_number_is_read_as_every_program_prints_it() {
    let id: CredentialId = SERIAL.parse().expect("an id");
    for printed in [
        SERIAL,
        // Go's Text(16), Java's toString(16).
        "1890a5dac96774bbcceb302099a805700000003",
        "1890A5DAC96774BBCCEB302099A805700000003",
        // Python's hex().
        "0x1890a5dac96774bbcceb302099a805700000003",
        "0X01890A5DAC96774BBCCEB302099A805700000003",
        // OpenSSL.
        "01:89:0a:5d:ac:96:77:4b:bc:ce:b3:02:09:9a:80:57:00:00:00:03",
        "01890A5DAC96774BBCCEB302099A805700000003\n",
        // Python's int, Go's String().
        "8765095861550455555440948922763895557282856963",
    ] {
        assert!(
            matches!(by_serial(printed), Ok(command::Shown::Serial { id: read, authority: None }) if read == id),
            "{printed}"
        );
        assert_eq!(credential_id(printed).expect(printed), id, "{printed}");
    }
}

#[test]
fn a_serial_number_that_is_not_ours_is_inactive_and_no_error() {
    for other in
        ["0", "01:02", "f", "7f", &"f".repeat(40), "1461501637330902918203684832716283019655932542975"]
    {
        assert!(matches!(by_serial(other), Ok(command::Shown::Nothing)), "{other}");
        assert!(credential_id(other).is_err(), "{other}");
    }
}

#[test]
fn what_is_no_serial_number_is_refused_with_the_forms_that_are() {
    let (long, huge) = (format!("1{SERIAL}"), "9".repeat(49));
    for bad in [
        "",
        " ",
        "0x",
        "zz",
        "-5",
        "1:2:3",
        "01:2",
        ":01",
        "01::02",
        "0x01:02",
        "+1",
        "1 2",
        "٣",
        "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
        "1461501637330902918203684832716283019655932542976",
        &long,
        &huge,
        &"1".repeat(10_000),
    ] {
        let error = by_serial(bad).expect_err(bad);
        assert_eq!(error.reason(), Reason::InvalidArgument, "{bad}");
        assert!(
            error.public().contains("certificate_serial: is no serial number")
                && !error.public().contains("eyJ")
        );
    }
}

#[test]
fn a_page_token_that_is_none_of_ours_is_refused_without_saying_what_it_is_made_of() {
    assert_eq!(credentials_from("").expect("none"), 0);
    assert_eq!(credentials_from("7").expect("good"), 7);
    for token in ["-1", "x", " 7"] {
        let sentence = credentials_from(token).unwrap_err();
        assert!(sentence.public().contains("leave it out") && !sentence.public().contains("digit"));
    }
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
