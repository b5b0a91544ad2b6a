use proptest::prelude::*;

use super::*;

type Parsed = Result<SpiffeId, InvalidSpiffeId>;

fn parse(text: &str) -> Parsed {
    text.parse()
}

fn why(text: &str) -> InvalidSpiffeId {
    parse(text).expect_err(text)
}

fn ok(text: &str) {
    assert_eq!(parse(text).expect(text).as_str(), text);
}

#[test]
fn c01_lower_case_scheme_and_trust_domain_are_taken() {
    ok("spiffe://td.test/agent");
}

#[test]
fn c01_upper_case_in_scheme_or_trust_domain_is_refused_when_presented() {
    assert_eq!(why("SPIFFE://td.test/agent"), InvalidSpiffeId::WrongScheme);
    assert_eq!(why("Spiffe://td.test/agent"), InvalidSpiffeId::WrongScheme);
    assert_eq!(why("spiffe://TD.test/agent"), InvalidSpiffeId::TrustDomainCharacter);
    assert_eq!(why("https://td.test/agent"), InvalidSpiffeId::WrongScheme);
}

#[test]
fn c01_upper_case_in_an_operators_configuration_is_folded_but_never_in_the_path() {
    assert_eq!(SpiffeId::from_config("SPIFFE://TD.Test/Agent").unwrap().as_str(), "spiffe://td.test/Agent");
    assert_eq!(SpiffeId::from_config("spiffe://TD").unwrap().as_str(), "spiffe://td");
    assert_eq!(TrustDomain::from_config("TD.Test").unwrap().as_str(), "td.test");
    assert_eq!(TrustDomain::from_config("SPIFFE://td.test").unwrap().as_str(), "td.test");
    assert!(SpiffeId::from_config("https://td.test/agent").is_err());
    assert!(SpiffeId::from_config("td.test/agent").is_err());
    assert!(TrustDomain::from_config("spiffe://td.test/agent").is_err());
}

#[test]
fn c02_a_trust_domain_of_one_letter_is_taken() {
    ok("spiffe://a/x");
}

#[test]
fn c02_an_empty_trust_domain_is_refused() {
    for text in ["spiffe://", "spiffe:///x", "spiffe:///"] {
        assert_eq!(why(text), InvalidSpiffeId::EmptyTrustDomain, "{text}");
    }
    assert_eq!("".parse::<TrustDomain>(), Err(InvalidSpiffeId::EmptyTrustDomain));
}

#[test]
fn c03_an_id_without_query_and_fragment_is_taken() {
    ok("spiffe://td/a");
}

#[test]
fn c03_query_and_fragment_are_refused_even_when_empty() {
    for text in ["spiffe://td/a?", "spiffe://td/a?b=c", "spiffe://td/a#", "spiffe://td/a#b"] {
        assert_eq!(why(text), InvalidSpiffeId::PathCharacter, "{text}");
    }
    for text in ["spiffe://td?", "spiffe://td#", "spiffe://td?a", "spiffe://td#a"] {
        assert_eq!(why(text), InvalidSpiffeId::TrustDomainCharacter, "{text}");
    }
}

#[test]
fn c04_a_bare_name_is_taken() {
    ok("spiffe://td.test/a");
}

#[test]
fn c04_user_and_port_are_refused_even_when_empty() {
    for text in ["spiffe://@td/a", "spiffe://u:p@td/a", "spiffe://td:/a", "spiffe://td:443/a"] {
        assert_eq!(why(text), InvalidSpiffeId::TrustDomainCharacter, "{text}");
    }
}

#[test]
fn c05_letters_digits_dot_dash_and_underscore_make_a_trust_domain() {
    ok("spiffe://az09.-_/x");
}

#[test]
fn c05_percent_encoding_and_ipv6_literals_are_refused() {
    for text in ["spiffe://td%2etest/a", "spiffe://[::1]/a", "spiffe://t d/a"] {
        assert_eq!(why(text), InvalidSpiffeId::TrustDomainCharacter, "{text}");
    }
}

#[test]
fn c06_names_shaped_like_addresses_or_odd_dns_are_taken() {
    for text in
        ["spiffe://1.2.3.4/a", "spiffe://-a/x", "spiffe://.../x", "spiffe://__/x", "spiffe://0x7f.1/x"]
    {
        ok(text);
    }
}

#[test]
fn c06_an_address_with_a_port_is_refused_like_any_other() {
    assert_eq!(why("spiffe://1.2.3.4:80/a"), InvalidSpiffeId::TrustDomainCharacter);
}

#[test]
fn c07_a_path_of_the_allowed_characters_is_taken() {
    ok("spiffe://td/AZ-az_09./B");
}

#[test]
fn c07_other_characters_in_a_path_are_refused() {
    for text in ["spiffe://td/a:b", "spiffe://td/a@b", "spiffe://td/%61", "spiffe://td/a b", "spiffe://td/a~"]
    {
        assert_eq!(why(text), InvalidSpiffeId::PathCharacter, "{text}");
    }
}

#[test]
fn c07_segments_put_into_a_path_are_filtered() {
    let domain: TrustDomain = "td".parse().unwrap();
    let id = SpiffeId::from_segments(&domain, &["task", "01AB-x", "agent"]).unwrap();
    assert_eq!((id.as_str(), id.path()), ("spiffe://td/task/01AB-x/agent", "/task/01AB-x/agent"));
    assert_eq!(id, parse("spiffe://td/task/01AB-x/agent").unwrap());
    for (segment, refused) in [
        ("a:b", InvalidSpiffeId::PathCharacter),
        ("a/b", InvalidSpiffeId::PathCharacter),
        ("", InvalidSpiffeId::EmptySegment),
        ("..", InvalidSpiffeId::DotSegment),
    ] {
        assert_eq!(SpiffeId::from_segments(&domain, &["task", segment]), Err(refused), "{segment:?}");
    }
}

#[test]
fn c08_an_id_without_a_path_and_one_with_several_segments_are_taken() {
    ok("spiffe://td");
    ok("spiffe://td/a/b/c");
}

#[test]
fn c08_empty_segments_and_a_slash_at_the_end_are_refused() {
    for text in ["spiffe://td/", "spiffe://td//a", "spiffe://td/a/", "spiffe://td/a//b"] {
        assert_eq!(why(text), InvalidSpiffeId::EmptySegment, "{text}");
    }
}

#[test]
fn c09_segments_that_only_begin_with_dots_are_taken() {
    for text in ["spiffe://td/.x", "spiffe://td/..x", "spiffe://td/...", "spiffe://td/x."] {
        ok(text);
    }
}

#[test]
fn c09_relative_segments_are_refused() {
    for text in
        ["spiffe://td/.", "spiffe://td/..", "spiffe://td/../a", "spiffe://td/a/./b", "spiffe://td/a/.."]
    {
        assert_eq!(why(text), InvalidSpiffeId::DotSegment, "{text}");
    }
}

fn of_length(bytes: usize) -> String {
    let mut text = "spiffe://td/".to_owned();
    text.extend(std::iter::repeat_n('a', bytes - text.len()));
    text
}

#[test]
fn c10_2047_and_2048_bytes_are_taken_and_generated() {
    for bytes in [2047, 2048] {
        ok(&of_length(bytes));
        let segment = "a".repeat(bytes - "spiffe://td/".len());
        assert!(SpiffeId::from_segments(&"td".parse().unwrap(), &[&segment]).is_ok());
    }
}

#[test]
fn c10_2049_bytes_are_neither_taken_nor_generated() {
    assert_eq!(why(&of_length(2049)), InvalidSpiffeId::TooLong);
    let segment = "a".repeat(2049 - "spiffe://td/".len());
    assert_eq!(SpiffeId::from_segments(&"td".parse().unwrap(), &[&segment]), Err(InvalidSpiffeId::TooLong));
}

#[test]
fn c11_a_trust_domain_of_254_or_255_bytes_is_taken() {
    for bytes in [254, 255] {
        ok(&format!("spiffe://{}/x", "a".repeat(bytes)));
    }
}

#[test]
fn c11_a_trust_domain_of_256_bytes_is_refused() {
    assert_eq!(why(&format!("spiffe://{}/x", "a".repeat(256))), InvalidSpiffeId::TrustDomainTooLong);
    assert_eq!("a".repeat(256).parse::<TrustDomain>(), Err(InvalidSpiffeId::TrustDomainTooLong));
}

#[test]
fn c12_the_same_bytes_are_the_same_id() {
    assert_eq!(parse("spiffe://td/Agent"), parse("spiffe://td/Agent"));
}

#[test]
fn c12_paths_of_different_case_are_different_ids() {
    assert_ne!(parse("spiffe://td/Agent").unwrap(), parse("spiffe://td/agent").unwrap());
    assert_ne!(parse("spiffe://td/a").unwrap(), parse("spiffe://td/a.").unwrap());
}

/// The rows of a table: columns apart by tabs, `#` begins a comment.
fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

const BYTES: &str = include_str!("../../../tests/data/spiffe_id_bytes.tsv");
const IDS: &str = include_str!("../../../tests/data/spiffe_ids.tsv");

#[test]
fn c13_each_byte_has_its_verdict_in_trust_domain_and_path() {
    assert_eq!(rows(BYTES).count(), 256);
    for (at, row) in rows(BYTES).enumerate() {
        let byte = u8::from_str_radix(row[0], 16).unwrap();
        assert_eq!(usize::from(byte), at);
        let c = char::from(byte);
        for (column, inside, last) in [
            (row[1], format!("spiffe://a{c}z/path"), format!("spiffe://a{c}")),
            (row[2], format!("spiffe://td/a{c}z"), format!("spiffe://td/a{c}")),
        ] {
            assert_eq!(parse(&inside).is_ok(), column != "refused", "{byte:02x} {inside:?}");
            assert_eq!(parse(&last).is_ok(), column == "ok", "{byte:02x} {last:?}");
        }
    }
}

#[test]
fn c13_each_listed_id_has_its_verdict_multi_byte_characters_too() {
    let mut seen = [0, 0];
    for row in rows(IDS) {
        let (expected, id) = (row[0] == "ok", row[1]);
        assert_eq!(parse(id).is_ok(), expected, "{id:?}");
        seen[usize::from(expected)] += 1;
    }
    assert!(seen[0] > 80 && seen[1] > 10, "{seen:?}");
}

#[test]
fn a03_ids_that_climb_hide_or_shout_are_refused_at_parse() {
    for text in [
        "spiffe://td/../admin",
        "spiffe://td/%2e%2e/admin",
        "spiffe://td//admin",
        "spiffe://admin@td/x",
        "spiffe://TD/admin",
        "spiffe://td/admin/",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn parts_of_an_id_are_what_stands_in_it() {
    let id = parse("spiffe://td.test/a/b").unwrap();
    assert_eq!((id.trust_domain().as_str(), id.path()), ("td.test", "/a/b"));
    assert_eq!(parse("spiffe://td.test").unwrap().path(), "");
}

#[test]
fn serde_is_strict_and_goes_round() {
    let id = parse("spiffe://td.test/a").unwrap();
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://TD/a\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"TD\"").is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics_and_what_it_takes_goes_round(text in "(spiffe://)?[a-zA-Z0-9._/%@:?#äλ -]{0,40}") {
        if let Ok(id) = parse(&text) {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        }
    }
}
