use super::*;

fn refusal(text: &str) -> InvalidAudienceUri {
    text.parse::<AudienceUri>().expect_err(text)
}

#[test]
fn canonical_uris_are_taken_as_they_are() {
    for text in [
        "https://payments.example.org/mcp",
        "https://payments.example.org",
        "https://payments.example.org:8443/mcp/v1",
        "https://xn--bcher-kva.example/a",
        "https://192.0.2.7/mcp",
        "https://[2001:db8::1]:8443/mcp",
        "https://example.org/a;b=1/c,d/@e:f/~g",
        "https://example.org/Case/Stays",
        "http://localhost:8080/mcp",
        "http://localhost",
        "http://127.0.0.1:9/x",
        "http://[::1]:9/x",
    ] {
        assert_eq!(text.parse::<AudienceUri>().map(|uri| uri.to_string()), Ok(text.to_owned()));
    }
}

#[test]
fn another_spelling_is_refused_with_the_canonical_one() {
    for (text, canonical) in [
        ("HTTPS://payments.example.org/mcp", "https://payments.example.org/mcp"),
        ("https://Payments.Example.ORG/mcp", "https://payments.example.org/mcp"),
        ("https://payments.example.org/", "https://payments.example.org"),
        ("https://payments.example.org/mcp/", "https://payments.example.org/mcp"),
        ("https://payments.example.org:443/mcp", "https://payments.example.org/mcp"),
        ("https://payments.example.org:/mcp", "https://payments.example.org/mcp"),
        ("https://payments.example.org:08443/mcp", "https://payments.example.org:8443/mcp"),
        ("https://payments.example.org/mcp?x=1", "https://payments.example.org/mcp"),
        ("https://payments.example.org/mcp?", "https://payments.example.org/mcp"),
        ("https://payments.example.org/mcp#top", "https://payments.example.org/mcp"),
        ("https://payments.example.org?x", "https://payments.example.org"),
        ("http://localhost:80/mcp", "http://localhost/mcp"),
        ("https://[2001:DB8:0::1]/mcp", "https://[2001:db8::1]/mcp"),
    ] {
        assert_eq!(refusal(text), InvalidAudienceUri::NotCanonical(canonical.to_owned()), "{text}");
        assert!(canonical.parse::<AudienceUri>().is_ok(), "{canonical}");
    }
}

#[test]
fn what_names_no_audience_is_refused_with_its_cause() {
    use InvalidAudienceUri::*;
    let long = format!("https://example.org/{}", "a".repeat(MAX_URI_BYTES));
    for (text, cause) in [
        ("", NotAbsolute),
        ("payments.example.org/mcp", NotAbsolute),
        ("/mcp", NotAbsolute),
        ("urn:example:payments", NotAbsolute),
        ("http://payments.example.org/mcp", Scheme),
        ("http://localhost.example.org/mcp", Scheme),
        ("http://[2001:db8::1]/mcp", Scheme),
        ("ftp://example.org/mcp", Scheme),
        ("spiffe://example.org/mcp", Scheme),
        ("https://user@example.org/mcp", User),
        ("https://example.org:443@evil.example/mcp", User),
        ("https:///mcp", Host),
        ("https://:8443/mcp", Host),
        ("https://exa_mple.org/mcp", Host),
        ("https://-example.org/mcp", Host),
        ("https://example..org/mcp", Host),
        ("https://example.org./mcp", Host),
        ("https://*.example.org/mcp", Host),
        ("https://256.1.1.1/mcp", Host),
        ("https://1.2.3/mcp", Host),
        ("https://[::1/mcp", Host),
        ("https://[::g]/mcp", Host),
        ("https://[::1]x/mcp", Host),
        ("https://example.org:0/mcp", Port),
        ("https://example.org:65536/mcp", Port),
        ("https://example.org:+1/mcp", Port),
        ("https://example.org:https/mcp", Port),
        ("https://example.org//mcp", Path),
        ("https://example.org/mcp//", Path),
        ("https://example.org/a/./b", Path),
        ("https://example.org/a/../b", Path),
        ("https://example.org/%6dcp", Path),
        ("https://example.org/a\\b", Path),
        ("https://example.org/a b", Character),
        ("https://example.org/mcp\n", Character),
        ("https://bücher.example/mcp", Character),
        (&long, TooLong),
    ] {
        assert_eq!(refusal(text), cause, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_canonical_or_becomes_so_in_one_step(text in "(http|HTTPS|https)://[a-zA-Z0-9.:\\[\\]-]{0,20}[/a-z.?#%]{0,12}") {
        if let Err(InvalidAudienceUri::NotCanonical(canonical)) = text.parse::<AudienceUri>() {
            proptest::prop_assert!(canonical.parse::<AudienceUri>().is_ok(), "{text} -> {canonical}");
        }
    }

    #[test]
    fn hostile_text_never_panics(text in "\\PC{0,64}") {
        let _ = text.parse::<AudienceUri>();
    }
}
