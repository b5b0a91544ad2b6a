//! Messages of a Workload API: our SVIDs, and the bundles of all trust domains.

use prost::Message as _;
use taskpass::identity::{ApiMessage, TrustBundle, TrustDomain};

use super::x509::{lets_nobody_else_in, root, svid, trust_domain};

/// The largest input here: what is appended to it has to fit into a message, too.
const MAX_BYTES: usize = 8_000;

/// `X509SVIDResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Svids {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    federated_bundles: Vec<Named>,
}

/// `X509SVID`
#[derive(Clone, PartialEq, prost::Message)]
struct Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

/// `X509BundlesResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct Bundles {
    #[prost(bytes = "vec", repeated, tag = "1")]
    crl: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    bundles: Vec<Named>,
}

/// An entry of the map.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    trust_domain: String,
    #[prost(bytes = "vec", tag = "2")]
    bundle: Vec<u8>,
}

/// One message, as the answer to either call.
pub fn run(input: &[u8]) {
    let input = &input[..input.len().min(MAX_BYTES)];
    let broken = vec![named("spiffe://broken.example", b"no certificate")];
    if let Some(message) = ApiMessage::of_svids(input) {
        message.svids().for_each(|(id, _)| assert!(id.starts_with("spiffe://")));
        let more = Svids { federated_bundles: broken.clone(), ..Svids::default() }.encode_to_vec();
        judged(&message, ApiMessage::of_svids(&[input, &more].concat()));
    }
    if let Some(message) = ApiMessage::of_bundles(input) {
        assert_eq!(message.svids().count(), 0);
        let more = Bundles { bundles: broken, ..Bundles::default() }.encode_to_vec();
        judged(&message, ApiMessage::of_bundles(&[input, &more].concat()));
    }
}

/// `more`: the same message and a bundle that nobody can read.
fn judged(message: &ApiMessage, more: Option<ApiMessage>) {
    let more = more.expect("it was a message before");
    for of in [trust_domain(), other()] {
        let said = anchors(message.bundle(&of));
        assert_eq!(anchors(more.bundle(&of)), said, "a bundle of another trust domain changes it");
    }
    let broken: TrustDomain = "broken.example".parse().expect("a trust domain");
    assert!(more.bundle(&broken).expect("it is named").is_err());
    assert!(message.svids().eq(more.svids()));
    if let Some(Ok(bundle)) = message.bundle(&trust_domain()) {
        lets_nobody_else_in(bundle);
    }
}

fn anchors(said: Option<Result<TrustBundle, String>>) -> Option<Result<usize, String>> {
    said.map(|it| it.map(|bundle| bundle.len()))
}

fn other() -> TrustDomain {
    "other.example".parse().expect("a trust domain")
}

fn named(trust_domain: &str, bundle: &[u8]) -> Named {
    Named { trust_domain: trust_domain.to_owned(), bundle: bundle.to_vec() }
}

/// See [`run`].
pub fn seeds() -> Vec<Vec<u8>> {
    let (name, x509_svid, x509_svid_key) = svid();
    let ours = Svid {
        spiffe_id: name.to_owned(),
        x509_svid,
        x509_svid_key,
        bundle: root().to_vec(),
        hint: "internal".to_owned(),
    };
    let bare = Svid { spiffe_id: name.to_owned(), ..Svid::default() };
    let two = [root().as_ref(), root()].concat();
    let both = vec![named("spiffe://other.example", root()), named("spiffe://example.org", &two)];
    let bad = vec![
        named("spiffe://other.example", b"nothing"),
        named("no name", root()),
        named("spiffe://example.org", b""),
    ];
    let crl = vec![b"a list".to_vec()];
    let svids = [
        Svids { svids: vec![ours.clone()], crl: crl.clone(), federated_bundles: both.clone() },
        Svids { svids: vec![ours.clone(), bare], crl: Vec::new(), federated_bundles: bad.clone() },
        Svids { svids: vec![ours], ..Svids::default() },
    ];
    let bundles = [Bundles { crl, bundles: both }, Bundles { bundles: bad, ..Bundles::default() }];
    svids.iter().map(Svids::encode_to_vec).chain(bundles.iter().map(Bundles::encode_to_vec)).collect()
}
