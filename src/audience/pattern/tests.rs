use super::*;

fn matches(pattern: &str, id: &str) -> bool {
    let pattern: SpiffeIdPattern = pattern.parse().expect(pattern);
    assert_eq!(pattern.to_string().parse::<SpiffeIdPattern>(), Ok(pattern.clone()));
    pattern.matches(&id.parse().expect(id))
}

#[test]
fn an_exact_pattern_means_one_id() {
    assert!(matches("spiffe://example.org/mcp/payments", "spiffe://example.org/mcp/payments"));
    assert!(!matches("spiffe://example.org/mcp/payments", "spiffe://example.org/mcp/payments/2"));
    assert!(!matches("spiffe://example.org/mcp/payments", "spiffe://example.org/mcp"));
    assert!(!matches("spiffe://example.org/mcp/payments", "spiffe://example.org/mcp/Payments"));
    assert!(!matches("spiffe://example.org/mcp/payments", "spiffe://example.org"));
}

#[test]
fn a_star_stands_for_one_segment() {
    assert!(matches("spiffe://example.org/mcp/*/verifier", "spiffe://example.org/mcp/payments/verifier"));
    assert!(!matches("spiffe://example.org/mcp/*/verifier", "spiffe://example.org/mcp/a/b/verifier"));
    assert!(!matches("spiffe://example.org/mcp/*", "spiffe://example.org/mcp"));
    assert!(!matches("spiffe://example.org/mcp/*", "spiffe://example.org/mcp/a/b"));
}

#[test]
fn two_stars_at_the_end_stand_for_one_segment_or_more() {
    assert!(matches("spiffe://example.org/mcp/**", "spiffe://example.org/mcp/a"));
    assert!(matches("spiffe://example.org/mcp/**", "spiffe://example.org/mcp/a/b/c"));
    assert!(!matches("spiffe://example.org/mcp/**", "spiffe://example.org/mcp"));
    assert!(!matches("spiffe://example.org/mcp/**", "spiffe://example.org/mcpx/a"));
    assert!(matches("spiffe://example.org/**", "spiffe://example.org/a"));
    assert!(!matches("spiffe://example.org/**", "spiffe://example.org"));
    assert!(matches("spiffe://example.org/*/**", "spiffe://example.org/a/b"));
    assert!(!matches("spiffe://example.org/*/**", "spiffe://example.org/a"));
}

#[test]
fn no_pattern_reaches_into_another_trust_domain() {
    for id in
        ["spiffe://example.org.evil/mcp/a", "spiffe://evil.example.org/mcp/a", "spiffe://example.com/mcp/a"]
    {
        assert!(!matches("spiffe://example.org/mcp/**", id), "{id}");
        assert!(!matches("spiffe://example.org/**", id), "{id}");
    }
}

#[test]
fn malformed_patterns_are_refused_with_their_cause() {
    use InvalidPattern::*;
    let long = format!("spiffe://example.org/{}", "a".repeat(2048));
    for (text, cause) in [
        ("", SpiffeId(InvalidSpiffeId::WrongScheme)),
        ("**", SpiffeId(InvalidSpiffeId::WrongScheme)),
        ("https://example.org/mcp", SpiffeId(InvalidSpiffeId::WrongScheme)),
        ("SPIFFE://example.org/mcp", SpiffeId(InvalidSpiffeId::WrongScheme)),
        ("spiffe://Example.org/mcp", SpiffeId(InvalidSpiffeId::TrustDomainCharacter)),
        ("spiffe:///mcp", SpiffeId(InvalidSpiffeId::EmptyTrustDomain)),
        ("spiffe://example.org", NoPath),
        ("spiffe://example.org/", NoPath),
        ("spiffe://*/mcp", StarInTrustDomain),
        ("spiffe://*.example.org/mcp", StarInTrustDomain),
        ("spiffe://**", StarInTrustDomain),
        ("spiffe://example.org/mcp-*", StarInSegment),
        ("spiffe://example.org/mcp**", StarInSegment),
        ("spiffe://example.org/***", StarInSegment),
        ("spiffe://example.org/**/mcp", OpenInTheMiddle),
        ("spiffe://example.org/**/**", OpenInTheMiddle),
        ("spiffe://example.org/mcp//a", SpiffeId(InvalidSpiffeId::EmptySegment)),
        ("spiffe://example.org/mcp/", SpiffeId(InvalidSpiffeId::EmptySegment)),
        ("spiffe://example.org//**", SpiffeId(InvalidSpiffeId::EmptySegment)),
        ("spiffe://example.org/../a", SpiffeId(InvalidSpiffeId::DotSegment)),
        ("spiffe://example.org/a?b", SpiffeId(InvalidSpiffeId::PathCharacter)),
        (&long, SpiffeId(InvalidSpiffeId::TooLong)),
    ] {
        assert_eq!(text.parse::<SpiffeIdPattern>(), Err(cause), "{text}");
    }
}
