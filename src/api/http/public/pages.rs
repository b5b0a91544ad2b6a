//! What the public listener gives out. Made once for each view of the keyring; a request costs no more than the copying of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::IF_NONE_MATCH;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};

use crate::ops::{Published, RevocationList, RevocationLists};
use crate::time::Timestamp;

/// Under the path of each issuer.
const KEY_SET: &str = "/jwks.json";

/// One page.
pub(super) struct Page {
    kind: &'static str,
    content_type: &'static str,
    fresh: Fresh,
    etag: String,
    body: Bytes,
}

/// How long a page may be kept.
#[derive(Clone, Copy)]
pub(super) enum Fresh {
    /// So long after it was given out.
    For(Duration),
    /// Until then.
    Until(Timestamp),
}

impl Page {
    pub(super) fn new(
        kind: &'static str,
        content_type: &'static str,
        fresh: Fresh,
        body: impl Into<Bytes>,
    ) -> Self {
        let body = body.into();
        let etag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, &body)));
        Self { kind, content_type, fresh, etag, body }
    }

    /// Its name in metrics.
    pub(super) const fn kind(&self) -> &'static str {
        self.kind
    }

    pub(super) fn body(&self) -> Bytes {
        self.body.clone()
    }

    pub(super) const fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(self.content_type)
    }

    /// Strong: another content has another one.
    pub(super) fn etag(&self) -> HeaderValue {
        // What it is made of is all allowed in a header.
        HeaderValue::from_str(&self.etag).unwrap_or(HeaderValue::from_static("\"\""))
    }

    /// In whole seconds, rounded down.
    pub(super) fn cache_control(&self, now: Timestamp) -> HeaderValue {
        let max_age = match self.fresh {
            Fresh::For(time) => time,
            Fresh::Until(end) => end.since(now),
        };
        let text = format!("public, max-age={}, must-revalidate", max_age.as_secs());
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("no-store"))
    }

    /// Whether the asker says that it has this content (RFC 9110, section 13.1.2: compared weakly).
    pub(super) fn is_held(&self, asked: &HeaderMap) -> bool {
        let lists = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut named = lists.flat_map(|list| list.split(',')).map(str::trim);
        named.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

/// All pages of one view of the keyring, by path.
pub(super) struct Pages {
    of: Published,
    by_path: HashMap<String, Page>,
}

impl Pages {
    /// Of this view. `key_set`, `bundle`: how long copies may be kept.
    pub(super) fn of(published: Published, (key_set, bundle): (Duration, Duration)) -> Self {
        let mut by_path = HashMap::new();
        for (issuer, jwks) in published.key_sets() {
            let page = Page::new("jwks", "application/jwk-set+json", Fresh::For(key_set), jwks.to_owned());
            by_path.insert(format!("{}{KEY_SET}", path_of(issuer)), page);
        }
        let pem = published.task_ca_pem().to_owned();
        let pem = Page::new("task_ca_bundle", "application/pem-certificate-chain", Fresh::For(bundle), pem);
        by_path.insert("/task-ca/bundle.pem".to_owned(), pem);
        // SPIFFE Federation, section 5: no other type is defined.
        let json = published.task_ca_bundle().to_owned();
        by_path.insert(
            "/task-ca/bundle.json".to_owned(),
            Page::new("task_ca_bundle", "application/json", Fresh::For(bundle), json),
        );
        Self { of: published, by_path }
    }

    pub(super) fn are_of(&self, published: &Published) -> bool {
        self.of.is_as(published)
    }

    /// Compared byte for byte, as issuers are.
    pub(super) fn get(&self, path: &str) -> Option<&Page> {
        self.by_path.get(path)
    }
}

/// The name under which the root's list lies.
pub(super) const ROOT: &str = "root";

/// The revocation lists of one moment, by the names under which they lie.
pub(super) struct Lists {
    of: Arc<RevocationLists>,
    by_name: HashMap<String, Page>,
}

impl Lists {
    /// Of this moment.
    pub(super) fn of(lists: Arc<RevocationLists>) -> Self {
        let page = |list: &RevocationList| {
            let fresh = Fresh::Until(list.next_update);
            Page::new("revocation_list", "application/pkix-crl", fresh, list.der.to_vec())
        };
        let mut by_name: HashMap<_, _> =
            lists.intermediates().iter().map(|list| (list.authority.to_string(), page(list))).collect();
        by_name.extend(lists.root().map(|list| (ROOT.to_owned(), page(list))));
        Self { of: lists, by_name }
    }

    pub(super) fn are_of(&self, lists: &Arc<RevocationLists>) -> bool {
        Arc::ptr_eq(&self.of, lists)
    }

    /// `root`, or the thumbprint of an intermediate's key.
    pub(super) fn get(&self, name: &str) -> Option<&Page> {
        self.by_name.get(name)
    }
}

/// The name of the revocation list that is asked for with this path.
pub(super) fn list_name(path: &str) -> Option<&str> {
    path.strip_prefix("/task-ca/")?.strip_suffix(".crl")
}

/// The path of an issuer, which is an https URL: empty, or with a slash before it and none behind.
fn path_of(issuer: &str) -> &str {
    let rest = issuer.strip_prefix("https://").unwrap_or(issuer);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_set_lies_below_its_issuers_own_path() {
        for (issuer, path) in [
            ("https://taskpass.example.org/example.org", "/example.org"),
            ("https://taskpass.example.org", ""),
            ("https://taskpass.example.org:8444/a/b", "/a/b"),
        ] {
            assert_eq!(path_of(issuer), path, "{issuer}");
        }
    }

    #[test]
    fn what_the_asker_has_is_recognised_however_it_says_so() {
        let fresh = Fresh::For(Duration::from_millis(2999));
        let page = Page::new("jwks", "application/json", fresh, "{}");
        let tag = page.etag().to_str().unwrap().to_owned();
        let held = |values: &[&str]| {
            let mut asked = HeaderMap::new();
            for value in values {
                asked.append(IF_NONE_MATCH, value.parse().unwrap());
            }
            page.is_held(&asked)
        };
        assert!(held(&[&tag]) && held(&["*"]) && held(&[&format!("W/{tag}")]));
        assert!(held(&[&format!("\"other\", {tag}")]) && held(&["\"other\"", &tag]));
        assert!(!held(&[]) && !held(&["\"other\""]) && !held(&[tag.trim_matches('"')]));
        assert_eq!(
            page.cache_control(Timestamp::EPOCH),
            "public, max-age=2, must-revalidate",
            "never longer than it is"
        );
        let other = Page::new("jwks", "application/json", fresh, "{ }");
        assert_ne!(page.etag(), other.etag());
    }
}
