//! The token of a request: from the header `Authorization`, and from nowhere else.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// How a token is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// RFC 6750, section 2.1.
    Bearer,
    /// RFC 9449, section 7.1: for a token that is bound to a DPoP key.
    Dpop,
}

/// What a request brings instead of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// Nothing, or credentials of another scheme.
    Missing,
    /// More than one header, or one that does not hold a token (RFC 6750, section 2.1: `b64token`).
    Malformed,
}

/// The names of schemes are case-insensitive (RFC 9110, section 11.1), and one space or more follows.
pub(super) fn token(headers: &HeaderMap) -> Result<(Scheme, &str), NoToken> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(NoToken::Missing)?;
    if values.next().is_some() {
        return Err(NoToken::Malformed);
    }
    let text = value.to_str().map_err(|_| NoToken::Malformed)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let scheme = if scheme.eq_ignore_ascii_case("Bearer") {
        Scheme::Bearer
    } else if scheme.eq_ignore_ascii_case("DPoP") {
        Scheme::Dpop
    } else {
        return Err(NoToken::Missing);
    };
    let token = token.trim_start_matches(' ');
    if is_b64token(token) { Ok((scheme, token)) } else { Err(NoToken::Malformed) }
}

fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~+/".contains(&c))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&str]) -> Result<(Scheme, String), NoToken> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        token(&headers).map(|(scheme, token)| (scheme, token.to_owned()))
    }

    #[test]
    fn a_token_follows_the_name_of_its_scheme_in_whatever_case() {
        for (text, scheme) in [
            ("Bearer a.b-c_d~e+f/g==", Scheme::Bearer),
            ("bearer a.b-c_d~e+f/g==", Scheme::Bearer),
            ("BEARER   a.b-c_d~e+f/g==", Scheme::Bearer),
            ("dpop a.b-c_d~e+f/g==", Scheme::Dpop),
        ] {
            assert_eq!(of(&[text]), Ok((scheme, "a.b-c_d~e+f/g==".to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_not_exactly_one_token_is_malformed() {
        for text in
            ["Bearer", "Bearer ", "Bearer =", "Bearer a b", "Bearer a,b", "Bearer \"a\"", "Bearer a\tb"]
        {
            assert_eq!(of(&[text]), Err(NoToken::Malformed), "{text}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(NoToken::Malformed));
        assert_eq!(of(&["Bearer a", "Basic a"]), Err(NoToken::Malformed));
        assert_eq!(of(&["Bearer \u{e9}"]), Err(NoToken::Malformed));
    }

    #[test]
    fn another_scheme_or_none_is_no_token() {
        for text in ["Basic a", "Bearerx a", "Bear a", "", " Bearer a", "Bearer:a"] {
            assert_eq!(of(&[text]), Err(NoToken::Missing), "{text:?}");
        }
        assert_eq!(of(&[]), Err(NoToken::Missing));
    }
}
