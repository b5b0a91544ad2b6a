//! Forged tokens and messages that are none: refused quickly, without a word on why, and without reaching out to anybody.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
};
use serde_json::{Value, json};
use taskpass::proto;
use tokio::net::TcpListener;
use tonic::Code;

use crate::support::broker::{Broker, Setup};
use crate::support::client::Client;
use crate::support::story::{mint, read_token, reason, shown};
use crate::support::world::DOCS;
use crate::support::{Store, raw};

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, input: &str) -> Vec<u8> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    key.sign(&random, input.as_bytes()).unwrap().as_ref().to_vec()
}

/// A token with a signature that somebody else than the broker can make.
fn forge(header: &Value, claims: &Value) -> String {
    let input = format!("{}.{}", part(header), part(claims));
    let signature = match header["alg"].as_str() {
        Some("ES384") => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &input),
        _ => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, &input),
    };
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A good token of the broker, and what is in it.
struct Genuine {
    token: String,
    header: Value,
    claims: Value,
    key: Value,
}

impl Genuine {
    async fn of(broker: &Broker) -> Self {
        let agent = broker.agent();
        let token = agent.mint(mint(&agent.docs_task().await, DOCS)).await.unwrap().token;
        let (header, claims) = read_token(&token);
        let request = proto::GetKeySetRequest { trust_domain: "example.org".into() };
        let set = agent.directory().get_key_set(request).await.unwrap().into_inner();
        let jwks: Value = serde_json::from_str(&set.jwks_json).unwrap();
        Self { token, header, claims, key: jwks["keys"][0].clone() }
    }

    /// The genuine claims and signature under a header of one's own.
    fn under(&self, header: &str) -> String {
        let rest = self.token.split_once('.').unwrap().1;
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
    }

    fn with_header(&self, name: &str, value: Value) -> Value {
        let mut header = self.header.clone();
        header[name] = value;
        header
    }

    fn with_claim(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims.clone();
        claims[name] = value;
        claims
    }
}

async fn assert_inactive(verifier: &Client, token: &str, what: &str) {
    let answer = verifier.validate(shown(token, DOCS)).await;
    assert_eq!(answer.expect(what), proto::ValidateResponse::default(), "{what}");
}

#[tokio::test]
async fn a48_the_header_of_a_token_decides_nothing() {
    let broker = Broker::start(Store::Embedded).await;
    let genuine = Genuine::of(&broker).await;
    let (verifier, header, claims) = (broker.verifier(), &genuine.header, &genuine.claims);
    assert!(verifier.accepts(&genuine.token).await);
    let unsigned = |alg: &str| format!("{}.{}.", part(&genuine.with_header("alg", json!(alg))), part(claims));
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256"] {
        assert_inactive(&verifier, &unsigned(alg), alg).await;
    }
    // HS256 with the public key for a secret, in every form that somebody might take for one.
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(genuine.key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], bytes("x"), bytes("y")].concat();
    for secret in [point, bytes("x"), genuine.key.to_string().into_bytes(), Vec::new()] {
        let input = format!("{}.{}", part(&genuine.with_header("alg", json!("HS256"))), part(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), input.as_bytes());
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_inactive(&verifier, &token, "HS256").await;
    }
    // Another curve, under its own name and under ours; another key of the right kind.
    assert_inactive(&verifier, &forge(&genuine.with_header("alg", json!("ES384")), claims), "ES384").await;
    let input = format!("{}.{}", part(header), part(claims));
    let wrong = ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, &input);
    let wrong = format!("{input}.{}", URL_SAFE_NO_PAD.encode(wrong));
    assert_inactive(&verifier, &wrong, "P-384 as ES256").await;
    assert_inactive(&verifier, &forge(header, claims), "another P-256 key").await;
    let nulls = format!("{input}.{}", URL_SAFE_NO_PAD.encode([0; 64]));
    assert_inactive(&verifier, &nulls, "a signature of zeros").await;

    for (name, value) in [
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("typ", json!("JWT")),
        ("typ", json!("dpop+jwt")),
        ("kid", json!("../../etc/passwd")),
        ("kid", json!(["a"])),
        ("alg", json!(["ES256"])),
    ] {
        let header = genuine.with_header(name, value);
        assert_inactive(&verifier, &forge(&header, claims), name).await;
        assert_inactive(&verifier, &genuine.under(&header.to_string()), name).await;
    }
    let twice = header.to_string().replacen('{', "{\"alg\":\"none\",", 1);
    assert_inactive(&verifier, &genuine.under(&twice), "alg twice").await;
    assert!(verifier.accepts(&genuine.token).await);
}

#[tokio::test]
async fn a48_keys_that_a_token_brings_along_are_ignored_and_never_fetched() {
    let broker = Broker::start(Store::Embedded).await;
    let genuine = Genuine::of(&broker).await;
    let bait = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = json!(format!("http://{}/keys.json", bait.local_addr().unwrap()));
    let own = rcgen::KeyPair::generate().unwrap();
    let point = URL_SAFE_NO_PAD.encode(&own.public_key_raw()[1..33]);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "alg": "ES256", "use": "sig" });
    for (name, value) in [
        ("jku", url.clone()),
        ("x5u", url),
        ("jwk", jwk),
        ("x5c", json!(["MIIB"])),
        ("x5t#S256", json!("AAAA")),
    ] {
        let header = genuine.with_header(name, value);
        assert_inactive(&broker.verifier(), &forge(&header, &genuine.claims), name).await;
        assert_inactive(&broker.verifier(), &genuine.under(&header.to_string()), name).await;
    }
    let fetched = tokio::time::timeout(Duration::from_millis(200), bait.accept()).await;
    assert!(fetched.is_err(), "the broker went to fetch a key");
}

#[tokio::test]
async fn claims_that_were_changed_are_inactive() {
    let broker = Broker::start(Store::Embedded).await;
    let genuine = Genuine::of(&broker).await;
    let signature = genuine.token.rsplit_once('.').unwrap().1;
    let far = genuine.claims["exp"].as_i64().unwrap() + 600;
    for (name, value) in [
        ("exp", json!(far)),
        ("scope", json!("mcp mcp:tool:read mcp:tool:search mcp:tool:write")),
        ("aud", json!([DOCS, "https://payments.example.org/mcp"])),
        ("client_id", json!("spiffe://example.org/agent/a2")),
        ("sub", json!("ann@customers.example.org")),
        ("jti", json!("0".repeat(40))),
        ("role", json!("admin")),
        ("iat", json!(1.5)),
        ("nbf", Value::Null),
    ] {
        let claims = genuine.with_claim(name, value);
        let token = format!("{}.{}.{signature}", part(&genuine.header), part(&claims));
        assert_inactive(&broker.verifier(), &token, name).await;
        assert_inactive(&broker.verifier(), &forge(&genuine.header, &claims), name).await;
    }
    assert!(broker.verifier().accepts(&genuine.token).await);
}

#[tokio::test]
async fn a51_tokens_without_measure_are_refused_quickly() {
    let broker = Broker::start(Store::Embedded).await;
    let genuine = Genuine::of(&broker).await;
    let verifier = broker.verifier();
    let scopes = ["a"; 10_000];
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let raw_part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = part(&genuine.header);
    let signature = genuine.token.rsplit_once('.').unwrap().1;
    let flattened = genuine.token.replace('.', "");
    let tokens = [
        ("empty", String::new()),
        ("dots", "..".to_owned()),
        ("many dots", ".".repeat(60_000)),
        ("one part", flattened),
        ("four parts", format!("{}.AAAA", genuine.token)),
        ("padded", format!("{}=", genuine.token)),
        ("blanks around", format!(" {} ", genuine.token)),
        ("a line feed in it", genuine.token.replacen('.', "\n.", 1)),
        ("60 KB of A", "A".repeat(60_000)),
        ("10,000 scopes", forge(&genuine.header, &genuine.with_claim("scope", json!(scopes.join(" "))))),
        ("a deep header", format!("{}.{}.{signature}", raw_part(&deep(10_000)), raw_part("{}"))),
        ("deep claims", format!("{header}.{}.{signature}", raw_part(&deep(20_000)))),
        ("deep details", {
            let claims = genuine.claims.to_string().replacen(
                '{',
                &format!("{{\"authorization_details\":{},", deep(9_000)),
                1,
            );
            format!("{header}.{}.{signature}", raw_part(&claims))
        }),
        (
            "invalid UTF-8 in the claims",
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(b"{\"iss\":\"\xff\xfe\"}")),
        ),
        (
            "a number without end",
            format!("{header}.{}.{signature}", raw_part(&format!("{{\"exp\":{}}}", "9".repeat(20_000)))),
        ),
    ];
    for (what, token) in tokens {
        let slowest = Duration::from_secs(2);
        let began = Instant::now();
        assert_inactive(&verifier, &token, what).await;
        assert!(began.elapsed() < slowest, "{what} took {:?}", began.elapsed());
    }
    assert!(verifier.accepts(&genuine.token).await);
}

/// Calls a method with bytes, and returns code and reason.
async fn sent(client: &Client, method: &str, bytes: Vec<u8>) -> (Code, String) {
    let status = raw::call(client, method, bytes).await.expect_err("a refusal");
    (status.code(), reason(&status))
}

#[tokio::test]
async fn a51_a_message_that_is_too_large_is_refused() {
    let broker = Broker::start(Store::Embedded).await;
    let (agent, verifier) = (broker.agent(), broker.verifier());
    let status = verifier.validate(shown(&"A".repeat(1 << 20), DOCS)).await.expect_err("a token of 1 MB");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MESSAGE_TOO_LARGE"));
    let request = proto::BeginTaskRequest { goal: "x".repeat(200_000), ..Default::default() };
    let status = agent.begin(request).await.expect_err("a goal of 200 KB");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MESSAGE_TOO_LARGE"));
    agent.docs_task().await;
}

#[tokio::test]
async fn a51_bytes_that_are_no_message_are_refused() {
    use prost::Message as _;
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    let malformed = (Code::InvalidArgument, "MALFORMED_MESSAGE".to_owned());
    let begin = crate::support::story::begin(&[crate::support::story::docs()]).encode_to_vec();
    let method = "/taskpass.v1.TaskService/BeginTask";
    for cut in [1, begin.len() / 2, begin.len() - 1] {
        assert_eq!(sent(&agent, method, begin[..cut].to_vec()).await, malformed, "cut at {cut}");
    }
    // Text that is no UTF-8; a length beyond the message; an endless varint; nested without end; an unknown wire type.
    let nested = (0..200).fold(Vec::new(), |inner, _| {
        let mut outer = vec![0x12];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        [outer, inner].concat()
    });
    for bytes in [
        b"\x0a\x02\xff\xfe".to_vec(),
        b"\x0a\xff\xff\xff\xff\x7f".to_vec(),
        vec![0xff; 64],
        vec![0x0f],
        nested,
    ] {
        let answer = sent(&agent, method, bytes.clone()).await;
        assert_eq!(answer.0, Code::InvalidArgument, "{bytes:?}: {answer:?}");
    }
    let unknown = sent(&agent, "/taskpass.v1.TaskService/MakeCoffee", Vec::new()).await;
    assert_eq!(unknown, (Code::Unimplemented, "UNKNOWN_METHOD".to_owned()));
    assert!(agent.list(Default::default()).await.unwrap().tasks.is_empty());
    agent.docs_task().await;
}

#[tokio::test]
async fn a_compressed_message_is_refused_for_what_it_is() {
    let broker = Broker::start(Store::Embedded).await;
    let agent = broker.agent();
    for path in ["/taskpass.v1.TaskService/BeginTask", "/grpc.health.v1.Health/Check"] {
        let mut grpc = tonic::client::Grpc::new(agent.channel.clone());
        grpc.ready().await.unwrap();
        let mut request = tonic::Request::new(tokio_stream::once(b"\x1f\x8b".to_vec()));
        request.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
        let status = grpc.streaming(request, path.parse().unwrap(), raw::Bytes).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unimplemented, "UNSUPPORTED_ENCODING"));
        assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }
}

#[tokio::test]
async fn a_service_that_somebody_made_up_is_never_put_before_policy() {
    let broker = Broker::start(Store::Embedded).await;
    for client in [broker.agent(), broker.operator()] {
        for path in [
            "/grpc.reflection.invented0/x",
            "/grpc.health.v1.Healthy/Check",
            "/grpc.health.v1.Health/Made",
            "/x",
        ] {
            let answer = sent(&client, path, Vec::new()).await;
            assert_eq!(answer, (Code::Unimplemented, "UNKNOWN_METHOD".to_owned()), "{path}");
        }
    }
    broker.agent().docs_task().await;
    crate::support::eventually("an audit line", async || !broker.audit().is_empty()).await;
    let actions: Vec<_> = broker.audit().iter().map(|line| line["action"].to_string()).collect();
    assert_eq!(actions, ["\"BeginTask\""]);
    let (_, page) = broker.page("/metrics").await;
    assert!(!page.contains("invented0") && !page.contains("Healthy"), "{page}");
}

#[tokio::test]
async fn what_is_no_http2_is_hung_up_on() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let broker = Broker::start(Store::Embedded).await;
    let svid = broker.world.svid("agent/a1");
    let config =
        crate::support::client::tls(&broker.world.broker_ca, Some((svid.chain.clone(), svid.key_der())));
    let tcp = tokio::net::TcpStream::connect(broker.grpc).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut tls =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.unwrap();
    // HTTP/1 and garbage in place of HTTP/2: the broker hangs up.
    tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), tls.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open");
    assert!(!String::from_utf8_lossy(&answer).contains("200"), "{answer:?}");
    broker.agent().docs_task().await;
}

#[tokio::test]
async fn a51_a_message_that_never_comes_is_given_up() {
    let setup = Setup::on(Store::Embedded).with("limits", "call_timeout = \"500ms\"");
    let broker = Broker::of(setup).await;
    let agent = broker.agent();
    let mut grpc = tonic::client::Grpc::new(agent.channel.clone());
    grpc.ready().await.unwrap();
    let path = "/taskpass.v1.TaskService/BeginTask".parse().unwrap();
    let silence = tonic::Request::new(tokio_stream::pending::<Vec<u8>>());
    let began = Instant::now();
    let calling = grpc.streaming(silence, path, raw::Bytes);
    let status =
        tokio::time::timeout(Duration::from_secs(10), calling).await.expect("an answer").unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "CALL_TIMED_OUT"),
        "{status:?}"
    );
    agent.docs_task().await;
}
