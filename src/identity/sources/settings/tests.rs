use super::*;

fn url(text: &str) -> Result<EndpointUrl, InvalidEndpointUrl> {
    text.parse()
}

#[test]
fn c77_an_https_url_without_user_and_fragment_is_taken() {
    for text in [
        "https://example.org/bundle.json",
        "https://example.org",
        "https://example.org:8443/a?b=c",
        "https://127.0.0.1:8443/",
        "https://[::1]/x",
    ] {
        url(text).unwrap();
    }
    let asked = url("https://example.org:8443/a/b?c=d").unwrap();
    assert_eq!(asked.address(), ("example.org".to_owned(), 8443));
    assert_eq!(asked.request(), ("example.org:8443".to_owned(), "/a/b?c=d".to_owned()));
    let asked = url("https://[2001:db8::1]").unwrap();
    assert_eq!(asked.address(), ("2001:db8::1".to_owned(), 443));
    assert_eq!(asked.request(), ("[2001:db8::1]".to_owned(), "/".to_owned()));
}

#[test]
fn c77_another_scheme_a_user_and_a_fragment_are_refused_even_when_empty() {
    use InvalidEndpointUrl as E;
    for (text, why) in [
        ("http://example.org/", E::NotHttps),
        ("HTTPS://example.org/", E::NotHttps),
        ("spiffe://example.org/", E::NotHttps),
        ("https:example.org", E::NotHttps),
        ("", E::NotHttps),
        ("https://me@example.org/", E::UserInfo),
        ("https://me:secret@example.org/", E::UserInfo),
        ("https://@example.org/", E::UserInfo),
        ("https://example.org/#", E::Fragment),
        ("https://example.org/#x", E::Fragment),
        ("https://example.org\\@evil.example/", E::Character),
        (" https://example.org/", E::Character),
        ("https://exämple.org/", E::Character),
        ("https:///", E::NoUrl),
        ("https://", E::NoUrl),
        ("https://example.org:99999/", E::NoUrl),
    ] {
        assert_eq!(url(text).unwrap_err(), why, "{text}");
    }
    assert_eq!(url(&format!("https://example.org/{}", "a".repeat(2048))).unwrap_err(), E::TooLong);
}

#[test]
fn c81_a_redirect_leads_to_a_valid_endpoint_url_or_nowhere() {
    use InvalidEndpointUrl as E;
    let here = url("https://example.org/a/b").unwrap();
    for (location, there) in [
        ("/c", "https://example.org/c"),
        ("c", "https://example.org/a/c"),
        ("https://other.example/", "https://other.example/"),
        ("//other.example/x", "https://other.example/x"),
    ] {
        assert_eq!(here.redirected(location).unwrap().to_string(), there);
    }
    for (location, why) in [
        ("http://example.org/", E::NotHttps),
        ("file:///etc/passwd", E::NotHttps),
        ("https://me@example.org/", E::UserInfo),
        ("#here", E::Fragment),
        ("\\\\evil.example/", E::Character),
        ("/a\r\nHost: evil", E::Character),
    ] {
        assert_eq!(here.redirected(location).unwrap_err(), why, "{location}");
    }
}

#[test]
fn c86_a_path_or_an_address_of_this_machine_makes_a_socket() {
    for (text, socket) in [
        ("unix:///run/spire/agent.sock", "unix:///run/spire/agent.sock"),
        ("unix:/run/spire/agent.sock", "unix:///run/spire/agent.sock"),
        ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
        ("tcp://[::1]:8081", "tcp://[::1]:8081"),
    ] {
        assert_eq!(text.parse::<Socket>().unwrap().to_string(), socket);
        let endpoint = Endpoint::parse(socket).unwrap();
        assert_eq!(text.parse::<Socket>().unwrap().endpoint(), endpoint);
    }
}

#[test]
fn c86_a_socket_is_at_the_path_that_was_written_byte_for_byte() {
    for path in
        ["/run/{pod}/agent.sock", "/run/<a>/\"b\"/`c`", "/run/link/../agent.sock", "/run/./agent.sock"]
    {
        let socket: Socket = format!("unix://{path}").parse().unwrap();
        assert_eq!(socket.endpoint(), Endpoint::Unix(path.into()), "{path}");
        assert_eq!(socket.to_string(), format!("unix://{path}"));
    }
}

#[test]
fn c86_anything_more_or_less_makes_none() {
    use InvalidSocket as E;
    for (text, why) in [
        ("", E::Scheme),
        ("/run/agent.sock", E::Scheme),
        ("http://127.0.0.1:80", E::Scheme),
        ("unix://host/run/agent.sock", E::Path),
        ("unix:run/agent.sock", E::Path),
        ("unix:///", E::Path),
        ("unix:", E::Path),
        ("unix:////run/agent.sock", E::Path),
        ("unix:///run/agent.sock?x", E::Path),
        ("unix:///run/agent.sock#x", E::Path),
        ("unix:///run/%2e.sock", E::Path),
        ("tcp://localhost:80", E::Address),
        ("tcp://127.0.0.1", E::Address),
        ("tcp://127.0.0.1:0", E::Address),
        ("tcp://127.0.0.1:80/", E::Address),
        ("tcp://me@127.0.0.1:80", E::Address),
        ("tcp:127.0.0.1:80", E::Scheme),
        ("tcp://10.0.0.1:80", E::Elsewhere),
        ("tcp://[2001:db8::1]:80", E::Elsewhere),
    ] {
        assert_eq!(text.parse::<Socket>().unwrap_err(), why, "{text}");
    }
}
