use super::*;
use crate::files::Looked;

fn refusal(policies: &str) -> String {
    load(policies).err().unwrap_or_else(|| panic!("taken: {policies}")).to_string()
}

#[test]
fn each_bad_policy_is_named_with_its_cause() {
    let with = |annotation: &str| format!("{annotation} permit (principal, action, resource);");
    let when = |condition: &str| {
        format!(
            "permit (principal, action == Taskpass::Action::\"MintToken\", resource)\nwhen {{ {condition} }};"
        )
    };
    for (policies, what) in [
        ("permit (principal, action);".to_owned(), "test.cedar:1: "),
        ("\n\npermit (principal, action, resource)".to_owned(), "test.cedar:3: unexpected end of input"),
        ("permit (principal == ?principal, action, resource);".to_owned(), "templates are not supported"),
        (with("@max_token_lifetime(\"soon\")"), "policy 1: @max_token_lifetime(\"soon\"): not a duration"),
        (with("@max_token_lifetime(\"0s\")"), "not a duration"),
        (with("@max_token_lifetime(\"-1s\")"), "not a duration"),
        (with("@max_token_lifetime(\"18446744073709551615s\")"), "not a duration"),
        (with("@max_task_lifetime(\"367 days\")"), "not a duration"),
        (with("@max_certificate_lifetime"), "not a duration"),
        (with("@max_live_tasks(\"0\")"), "@max_live_tasks(\"0\"): not a whole number from 1"),
        (with("@max_live_tasks(\"-1\")"), "not a whole number"),
        (with("@max_live_tasks(\"4294967296\")"), "not a whole number"),
        (with("@max_tokens(\"3\")"), "unknown annotation @max_tokens"),
        (with("@id(\"\")"), "@id(\"\"): 1 to 128 of A-Z"),
        (with("@id(\"two words\")"), "@id(\"two words\")"),
        (with(&format!("@id(\"{}\")", "x".repeat(129))), "1 to 128 of A-Z"),
        (format!("{0} {0}", with("@id(\"a\")")), "policy 2: the id \"a\" is taken, in test.cedar"),
        ("@max_live_tasks(\"3\") forbid (principal, action, resource);".to_owned(), "a forbid with a cap"),
        (
            "@max_token_lifetime(\"5m\") permit (principal, action == Taskpass::Action::\"BeginTask\", resource);"
                .to_owned(),
            "@max_token_lifetime on a policy that never permits MintToken",
        ),
        (when("context.admin"), "test.cedar:2: "),
        (when("principal.role == \"admin\""), "role"),
        (when("context.lifetime_seconds < \"60\""), "test.cedar:2: "),
        (when("resource.owner == principal"), "owner"),
        (when("Taskpass::Audience::\"https://a.example\".profile == \"bearer\""), "test.cedar:2: "),
        ("permit (principal, action == Taskpass::Action::\"Mint\", resource);".to_owned(), "Mint"),
        ("permit (principal is Taskpass::User, action, resource);".to_owned(), "User"),
        ("permit (principal, action == Action::\"MintToken\", resource);".to_owned(), "MintToken"),
        (
            "forbid (principal, action == Taskpass::Action::\"MintToken\", resource is Taskpass::Task);".to_owned(),
            "test.cedar:1: ",
        ),
    ] {
        let report = refusal(&policies);
        assert!(report.contains(what) && report.starts_with("test.cedar"), "{policies}\n-> {report}");
    }
}

#[test]
fn a14_policies_cannot_speak_of_what_a_caller_says_about_itself() {
    for claim in
        ["context.role == \"admin\"", "context.approved", "context has data_class", "principal.is_admin"]
    {
        let report = refusal(&format!("permit (principal, action, resource) when {{ {claim} }};"));
        assert!(report.contains("test.cedar:1"), "{claim}: {report}");
    }
}

#[test]
fn all_problems_of_all_files_come_in_one_report() {
    let texts = [
        ("a.cedar", "permit (principal, action);"),
        ("b.cedar", "@colour(\"red\") permit (principal, action, resource);"),
        ("c.cedar", "permit (principal, action, resource);"),
    ];
    let report = PolicySet::from_files(&Listing::of_texts(&texts)).err().unwrap().to_string();
    assert!(
        report.contains("a.cedar:1: ") && report.contains("b.cedar: policy 1: unknown annotation"),
        "{report}"
    );
    assert!(!report.contains("c.cedar"), "{report}");
}

#[test]
fn policies_without_an_id_are_named_by_file_and_place() {
    let permit = "permit (principal, action, resource);\n";
    let many = permit.repeat(12);
    let set = PolicySet::from_files(&Listing::of_texts(&[("a.cedar", &many), ("b.cedar", permit)])).unwrap();
    let mut ids: Vec<_> = set.ids().collect();
    ids.sort();
    assert_eq!(set.len(), 13);
    assert_eq!((ids[0], ids[3], ids[12]), ("a#1", "a#12", "b#1"));
}

#[test]
fn a47_a_policy_that_permits_everybody_everything_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let all = "@id(\"trial\") permit (principal, action, resource);";
    std::fs::write(dir.path().join("all.cedar"), all).unwrap();
    let report = PolicyEngine::open(dir.path()).err().unwrap().to_string();
    assert!(report.contains("\"trial\" permits everybody everything"), "{report}");
}

#[test]
fn a_directory_without_policies_is_refused_at_start_and_denies_all_when_emptied_later() {
    let dir = tempfile::tempdir().unwrap();
    let report = PolicyEngine::open(dir.path()).err().unwrap().to_string();
    assert!(report.contains("everything would be denied"), "{report}");
    let file = dir.path().join("all.cedar");
    std::fs::write(&file, "permit (principal is Taskpass::Workload, action, resource);").unwrap();
    let engine = PolicyEngine::open(dir.path()).unwrap();
    let health = || engine.decide::<CheckHealth>(&caller(AGENT), (), ()).map_err(|it| it.reason);
    assert!(health().is_ok());
    std::fs::write(&file, "permit (principal, action, resource").unwrap();
    assert_eq!([engine.look(), engine.look()], [Looked::Unsettled, Looked::Refused]);
    assert!(health().is_ok());
    std::fs::write(&file, "permit (principal, action == Taskpass::Action::\"Reflect\", resource);").unwrap();
    assert_eq!([engine.look(), engine.look()], [Looked::Unsettled, Looked::Taken]);
    assert_eq!(health().unwrap_err(), Denial::NotPermitted);
    std::fs::remove_file(&file).unwrap();
    assert_eq!([engine.look(), engine.look()], [Looked::Unsettled, Looked::Taken]);
    assert_eq!(health().unwrap_err(), Denial::NoPolicies);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn hostile_text_never_panics(text in "(permit|forbid|\\(|\\)|principal|,|action|resource|when|\\{|\\}|;|@id|\\PC){0,24}") {
        let _ = load(&text);
    }
}

#[test]
fn too_many_policies_are_refused() {
    let many = "permit (principal, action, resource);\n".repeat(set::MAX_POLICIES + 1);
    assert!(load(&many).err().unwrap().to_string().contains("more than 5000 policies"));
}
