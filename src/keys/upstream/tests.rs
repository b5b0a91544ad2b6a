use std::sync::Arc;
use std::time::Duration;

use rcgen::PublicKeyData as _;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, KeyUsagePurpose};

use super::*;
use crate::identity::test_ca::{Ca, OID_NAME_CONSTRAINTS, URI, dns, extension, pem, tlv, uri, valid};
use crate::keys::testing::{MemoryStore, NOW, domain, kek, plan};
use crate::keys::{Keeper, KeyPlan, KeySets, KeyState, KeyUse, KeyView, Move, Refusal, Renewal, Unaccounted};

const WAIT: Duration = Duration::from_secs(900);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A company's root, and an authority below it that signs for the task CA.
struct Company {
    root: Ca,
    signs: Ca,
}

impl Company {
    fn new(name: &str) -> Self {
        let root = Ca::new(name);
        Self { signs: root.intermediate(), root }
    }

    fn upstream(&self) -> Upstream {
        Upstream::parse(domain("broker.test"), self.root.pem().as_bytes()).unwrap()
    }

    /// The request signed as `edit` says, and what is above it but for the root.
    fn answer(&self, request: &Request, edit: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = request.params.clone();
        valid(&mut params, NOW.as_secs() - 60, NOW.saturating_add(DAY * 90).as_secs());
        params.use_authority_key_identifier_extension = true;
        edit(&mut params);
        let certificate = self.signs.sign(&params, &request.public_key);
        pem("CERTIFICATE", &certificate) + &pem("CERTIFICATE", self.signs.der())
    }
}

type Request = CertificateSigningRequestParams;

async fn keeper_of(store: &Arc<MemoryStore>, upstream: Option<Upstream>, now: Timestamp) -> Keeper {
    let plan = KeyPlan { upstream, ..plan(&[("acme.test", Algorithm::Es256)]) };
    Keeper::open(Arc::clone(store) as _, Arc::new(kek(7)), plan, Arc::new(Unaccounted), now).await.unwrap()
}

async fn request(keeper: &Keeper, now: Timestamp) -> Request {
    keeper.make(&Move::Request, false, now).await.unwrap().unwrap();
    let keyring = keeper.current();
    let (kid, der) = keyring.request().unwrap();
    let request = Request::from_der(&der.into()).unwrap();
    let public = VerificationKey::from_public_bytes(Algorithm::Es256, request.public_key.der_bytes());
    assert_eq!(public.unwrap().id(), kid);
    request
}

async fn install(keeper: &Keeper, chain: &str, now: Timestamp) -> Result<(), Refusal> {
    let chain = Chain::from_pem(chain)?;
    let before = keeper.current().document().to_vec();
    let installed = keeper.make(&Move::Install(chain), false, now).await.unwrap();
    assert!(installed.is_ok() || keeper.current().document() == before, "a refusal changes nothing");
    installed.map(drop)
}

fn intermediates(keeper: &Keeper, state: KeyState) -> Vec<KeyView> {
    let current = keeper.current();
    current.keys().filter(|key| key.key_use == KeyUse::TaskCaIntermediate && key.state == state).collect()
}

/// Everything that is due, until nothing is.
async fn settle(keeper: &Keeper, now: Timestamp) {
    while let [what, ..] = keeper.due(now).0.as_slice() {
        keeper.make(what, false, now).await.unwrap().unwrap();
    }
}

fn trusted(keeper: &Keeper) -> Vec<CertificateDer<'static>> {
    keeper.current().task_authorities().anchors().to_vec()
}

#[tokio::test]
async fn a_request_says_what_ours_are_and_stays_the_same_until_it_is_answered() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    assert!(keeper.current().task_ca().is_none() && keeper.current().signer(&domain("acme.test")).is_some());
    assert_eq!(trusted(&keeper), [company.root.der().clone()], "before there is anything under it");
    assert_eq!(keeper.renewal(NOW), Some(Renewal::Missing));
    let first = request(&keeper, NOW).await;
    assert_eq!(first.params.is_ca, IsCa::Ca(BasicConstraints::Constrained(0)));
    let usages = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    assert!(usages.iter().all(|usage| first.params.key_usages.contains(usage)));
    assert_eq!(first.params.subject_alt_names, [uri("spiffe://broker.test")]);
    let waits = intermediates(&keeper, KeyState::Requested).remove(0);
    let again = request(&keeper_of(&store, Some(company.upstream()), NOW).await, NOW).await;
    assert_eq!(again.public_key.der_bytes(), first.public_key.der_bytes(), "another broker's, too");
    // Withdrawn, it is another one.
    keeper.look(NOW).await.unwrap();
    keeper.make(&Move::Retire(waits.kid), false, NOW).await.unwrap().unwrap();
    let other = request(&keeper, NOW).await;
    assert_ne!(other.public_key.der_bytes(), first.public_key.der_bytes());
    let answer = company.answer(&first, |_| {});
    assert!(matches!(install(&keeper, &answer, NOW).await, Err(Refusal::WrongState { .. })), "withdrawn");
    install(&keeper, &company.answer(&other, |_| {}), NOW).await.unwrap();
    assert!(keeper.current().request().is_none());
}

#[tokio::test]
async fn a_broker_with_a_root_of_its_own_asks_nobody() {
    let store = Arc::default();
    let keeper = keeper_of(&store, None, NOW).await;
    assert_eq!(keeper.make(&Move::Request, false, NOW).await.unwrap().unwrap_err(), Refusal::NoUpstream);
    assert_eq!(keeper.renewal(NOW), None);
    let text = String::from_utf8(store.document()).unwrap();
    assert!(text.starts_with("taskpass-keyring 3\n"), "a broker of before reads it");
}

#[tokio::test]
async fn what_is_installed_signs_at_once_where_nothing_else_does_and_goes_out_with_its_path() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    let answer = company.answer(&request(&keeper, NOW).await, |_| {});
    install(&keeper, &answer, NOW).await.unwrap();
    let current = keeper.current();
    let ca = current.task_ca().unwrap();
    assert_eq!(ca.chain().len(), 2);
    assert_eq!((&ca.chain()[1], ca.anchor()), (company.signs.der(), company.root.der()));
    assert_eq!(ca.not_after(), NOW.saturating_add(DAY * 90));
    assert_eq!(keeper.renewal(NOW), None);
    assert_eq!(keeper.list_signers(&current).await.unwrap().0.len(), 1);
    assert!(keeper.root_list_signer(&current).await.unwrap().is_none(), "a root of our own there is not");
    assert_eq!(KeySets::of(&current).unwrap().task_ca_pem(), company.root.pem());
    // Sent again it is there; with the root behind it, too.
    let document = store.document();
    install(&keeper, &answer, NOW).await.unwrap();
    install(&keeper, &(answer + &company.root.pem()), NOW).await.unwrap();
    assert_eq!(store.document(), document);
    assert!(String::from_utf8(document).unwrap().starts_with("taskpass-keyring 4\n"));
    let again = keeper_of(&store, Some(company.upstream()), NOW).await;
    assert_eq!(again.current().task_ca().unwrap().chain(), ca.chain(), "a restart makes nothing");
}

#[tokio::test]
async fn each_chain_that_does_not_fit_is_refused_with_its_reason_and_changes_nothing() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    let asked = request(&keeper, NOW).await;
    let long = |params: &mut CertificateParams, from, until| valid(params, from, until);
    let (now, second) = (NOW.as_secs(), Duration::from_secs(1));
    let needed = WAIT + HOUR * 2;
    type Edit = Box<dyn FnOnce(&mut CertificateParams)>;
    let cases: Vec<(Edit, &str)> = vec![
        (Box::new(|it| it.is_ca = IsCa::NoCa), "is no CA certificate"),
        (Box::new(|it| it.is_ca = IsCa::ExplicitNoCa), "is no CA certificate"),
        (Box::new(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "path length is not limited"),
        (Box::new(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))), "path length is 1"),
        (
            Box::new(|it| it.key_usages = vec![KeyUsagePurpose::CrlSign]),
            "does not allow to sign certificates",
        ),
        (Box::new(|it| it.key_usages.clear()), "does not allow to sign certificates"),
        (
            Box::new(|it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            "does not allow to sign revocation lists",
        ),
        (Box::new(move |it| long(it, now - 100, now - 1)), "Certificate 1 has expired"),
        (Box::new(move |it| long(it, now + 1, now + 10_000_000)), "Certificate 1 is not valid before"),
        (Box::new(move |it| long(it, now, now + needed.as_secs() - 1)), "which is too soon"),
        (
            Box::new(|it| it.subject_alt_names = vec![uri("spiffe://acme.test")]),
            "names spiffe://acme.test, and only the broker's own",
        ),
        (
            Box::new(|it| it.subject_alt_names = vec![uri("spiffe://broker.test/task/x")]),
            "names spiffe://broker.test/task/x",
        ),
        (Box::new(|it| it.subject_alt_names.push(uri("SPIFFE://%"))), "names SPIFFE://%"),
        (
            Box::new(|it| it.distinguished_name = rcgen::DistinguishedName::new()),
            "The certificate has no subject",
        ),
        (
            Box::new(|it| {
                let only = tlv(0x30, &tlv(0xa0, &tlv(0x30, &tlv(URI, b"acme.test"))));
                it.custom_extensions = vec![extension(OID_NAME_CONSTRAINTS, only, true)];
            }),
            "What is issued under it would be refused: a name constraint forbids",
        ),
        (
            Box::new(|it| it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning]),
            "What is issued under it would be refused: the extended key usage",
        ),
    ];
    for (edit, why) in cases {
        let refusal = install(&keeper, &company.answer(&asked, edit), NOW).await.unwrap_err();
        assert!(refusal.to_string().contains(why), "{why}: {refusal}");
    }
    let at_least = company.answer(&asked, |it| long(it, now, now + needed.as_secs()));
    let late = NOW.saturating_add(second);
    assert!(matches!(install(&keeper, &at_least, late).await, Err(Refusal::Misfit(Misfit::TooShort { .. }))));
    // Other names than SPIFFE IDs are the company's affair.
    let named = company.answer(&asked, |it| it.subject_alt_names.push(dns("ca.company.test")));
    install(&keeper, &named, NOW).await.unwrap();
}

#[tokio::test]
async fn each_path_that_does_not_lead_there_is_refused_with_its_reason_and_changes_nothing() {
    let (store, company, other) = (Arc::default(), Company::new("company.test"), Company::new("other.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    let asked = request(&keeper, NOW).await;
    let (own, root) = (company.answer(&asked, |_| {}), company.root.pem());
    let alone = own.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    let foreign = other.answer(&asked, |_| {});
    let between = company.signs.intermediate();
    let impostor = Company { root: Ca::new("company.test"), signs: Ca::new("company.test").intermediate() };
    let expired = company.root.intermediate_with(|it| valid(it, 1, NOW.as_secs() - 1));
    let closed = company.root.intermediate_with(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let weak = company.root.intermediate_with(|it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let by = |ca: Ca| Company { root: Ca::new("company.test"), signs: ca }.answer(&asked, |_| {});
    let another = rcgen::KeyPair::generate().unwrap();
    let of_another = {
        let params = asked.params.clone();
        pem("CERTIFICATE", &company.signs.sign(&params, &another)) + &pem("CERTIFICATE", company.signs.der())
    };
    let filler = pem("CERTIFICATE", between.der());
    for (chain, why) in [
        (String::new(), "no PEM certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned(), "it is no PEM"),
        (pem("CERTIFICATE", b"x"), "Certificate 1 is malformed"),
        (own.clone() + &pem("CERTIFICATE", b"x"), "Certificate 3 is malformed"),
        (filler.repeat(7), "More than 6 certificates"),
        (" ".repeat(32 * 1024) + &own, "longer than 32 KiB"),
        (of_another, "is for a key that this broker's keyring does not have"),
        (
            pem("CERTIFICATE", company.signs.der()) + &own,
            "is for a key that this broker's keyring does not have",
        ),
        (alone.clone(), "was issued by CN=company.test intermediate 1, which is not there"),
        (alone.clone() + &root, "Certificate 1 was not issued by the one that follows"),
        (own.clone() + &filler, "Certificate 2 was not issued by the one that follows"),
        (foreign, "was issued by CN=other.test root, which is not there"),
        (impostor.answer(&asked, |_| {}), "a signature in the chain is wrong"),
        (by(expired), "Certificate 2 has expired"),
        (by(closed), "the chain is longer than one of its issuers allows"),
        (by(weak), "an issuer of the certificate may not sign certificates"),
    ] {
        let refusal = install(&keeper, &chain, NOW).await.unwrap_err().to_string();
        assert!(refusal.to_lowercase().contains(&why.to_lowercase()), "{why}: {refusal}");
    }
    install(&keeper, &(own + &root), NOW).await.unwrap();
}

#[tokio::test]
async fn a_task_ca_with_a_root_of_its_own_goes_over_with_both_trusted_until_the_last_certificate_is_over() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let before = keeper_of(&store, None, NOW).await;
    let (own_root, own) = (trusted(&before).remove(0), before.current().task_ca().unwrap().key_id());
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    let both = [company.root.der().clone(), own_root];
    assert_eq!((trusted(&keeper), keeper.current().task_ca().unwrap().key_id()), (both.to_vec(), own));
    settle(&keeper, NOW.saturating_add(WAIT)).await;
    assert_eq!(keeper.current().task_ca().unwrap().key_id(), own, "nothing else may sign yet");
    assert_eq!(
        keeper
            .make(&Move::Rotate(KeyUse::TaskCaIntermediate, domain("broker.test")), false, NOW)
            .await
            .unwrap()
            .unwrap_err(),
        Refusal::NotInstalled
    );

    let asked = request(&keeper, NOW).await;
    let installed = NOW.saturating_add(HOUR);
    install(&keeper, &company.answer(&asked, |_| {}), installed).await.unwrap();
    let aged = installed.saturating_add(WAIT);
    settle(&keeper, aged.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(keeper.current().task_ca().unwrap().key_id(), own, "not every verifier knows it");
    // A broker that has not heard of it publishes what it leads to, and undoes nothing.
    let late = keeper_of(&store, None, installed).await;
    assert!(trusted(&late).contains(company.root.der()));
    settle(&late, NOW.saturating_add(DAY * 80)).await;
    assert_eq!(late.current().task_ca().unwrap().key_id(), own);
    keeper.look(aged).await.unwrap();
    settle(&keeper, aged).await;
    assert_eq!(keeper.current().task_ca().unwrap().anchor(), company.root.der());
    assert_eq!(intermediates(&keeper, KeyState::Retiring)[0].kid, own);
    assert!(intermediates(&keeper, KeyState::Prepared).is_empty(), "standbys of before go");
    late.look(aged).await.unwrap();
    settle(&late, aged).await;
    assert_eq!(late.current().task_ca().unwrap().anchor(), company.root.der());

    // An hour, the longest certificate, and ten seconds until all brokers agree.
    let over = intermediates(&keeper, KeyState::Retiring)[0].waits_until.unwrap();
    assert_eq!(over, aged.saturating_add(HOUR + Duration::from_secs(10)));
    keeper.look(aged).await.unwrap();
    settle(&keeper, over.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(trusted(&keeper), both);
    settle(&keeper, over).await;
    assert_eq!(trusted(&keeper), both[..1]);

    // The way back is by hand.
    let back = Move::Rotate(KeyUse::TaskCaIntermediate, domain("broker.test"));
    late.look(over).await.unwrap();
    late.make(&back, false, over).await.unwrap().unwrap();
    let early = late.make(&back, false, over).await.unwrap().unwrap_err();
    assert!(matches!(early, Refusal::NotAged { .. }), "{early}");
    assert_eq!(trusted(&late).len(), 2);
    let aged = over.saturating_add(WAIT);
    late.make(&back, false, aged).await.unwrap().unwrap();
    assert_eq!(late.current().task_ca().unwrap().anchor(), &both[1]);
    settle(&late, aged).await;
    assert_eq!(intermediates(&late, KeyState::Prepared).len(), 1);
}

#[tokio::test]
async fn a_renewal_is_asked_for_when_a_third_is_left_and_the_next_one_takes_over_before_the_end() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    install(&keeper, &company.answer(&request(&keeper, NOW).await, |_| {}), NOW).await.unwrap();
    let first = keeper.current().task_ca().unwrap().key_id();
    let (until, third) = (NOW.saturating_add(DAY * 90), NOW.saturating_add(DAY * 60));
    assert_eq!(keeper.renewal(third.saturating_sub(HOUR)), None);
    assert_eq!(keeper.renewal(third), Some(Renewal::Due { until }));
    assert_eq!(keeper.renewal(until), Some(Renewal::Over { since: until }));
    let asked = request(&keeper, third).await;
    assert_eq!(keeper.renewal(third), Some(Renewal::Due { until }), "nothing is installed yet");
    let next =
        company.answer(&asked, |it| valid(it, third.as_secs(), third.saturating_add(DAY * 90).as_secs()));
    install(&keeper, &next, third).await.unwrap();
    assert_eq!(keeper.renewal(third), None);
    settle(&keeper, third).await;
    assert_eq!(keeper.current().task_ca().unwrap().key_id(), first, "it waits as every standby");
    settle(&keeper, third.saturating_add(WAIT)).await;
    assert_ne!(keeper.current().task_ca().unwrap().key_id(), first);
    assert_eq!(
        keeper.current().task_authorities().intermediates().len(),
        2,
        "what is under the first is ours still"
    );
    assert_eq!(keeper.renewal(third.saturating_add(WAIT)), None);
}

#[tokio::test]
async fn what_comes_when_the_one_before_is_over_signs_at_once() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    install(&keeper, &company.answer(&request(&keeper, NOW).await, |_| {}), NOW).await.unwrap();
    let late = NOW.saturating_add(DAY * 90);
    let again = company.answer(&request(&keeper, late).await, |it| {
        valid(it, late.as_secs(), late.saturating_add(DAY).as_secs())
    });
    install(&keeper, &again, late).await.unwrap();
    assert_eq!(keeper.current().task_ca().unwrap().not_after(), late.saturating_add(DAY));
    assert_eq!(keeper.renewal(late), None);

    // One that came a moment before does not wait to be aged either.
    let end = late.saturating_add(DAY);
    let soon = end.saturating_sub(Duration::from_secs(60));
    let asked = request(&keeper, soon).await;
    let last = company.answer(&asked, |it| valid(it, soon.as_secs(), soon.saturating_add(DAY).as_secs()));
    install(&keeper, &last, soon).await.unwrap();
    settle(&keeper, end.saturating_sub(Duration::from_millis(1))).await;
    assert_eq!(keeper.current().task_ca().unwrap().not_after(), end);
    assert_eq!(keeper.due(soon).1, Some(end));
    settle(&keeper, end).await;
    assert_eq!(keeper.current().task_ca().unwrap().not_after(), soon.saturating_add(DAY));
}

#[tokio::test]
async fn r4_a_compromise_without_a_standby_stops_certificates_and_not_tokens() {
    let (store, company) = (Arc::default(), Company::new("company.test"));
    let keeper = keeper_of(&store, Some(company.upstream()), NOW).await;
    install(&keeper, &company.answer(&request(&keeper, NOW).await, |_| {}), NOW).await.unwrap();
    let waits = request(&keeper, NOW).await;
    let signs = keeper.current().task_ca().unwrap().key_id();
    keeper.make(&Move::Compromise(signs), false, NOW).await.unwrap().unwrap();
    assert!(keeper.current().task_ca().is_none() && keeper.current().signer(&domain("acme.test")).is_some());
    assert_eq!(keeper.renewal(NOW), Some(Renewal::Missing));
    assert!(keeper.current().given_up_intermediates().unwrap().is_empty(), "our own root has not signed it");
    assert!(keeper.current().task_authorities().intermediates().is_empty());
    install(&keeper, &company.answer(&waits, |_| {}), NOW).await.unwrap();
    assert_ne!(keeper.current().task_ca().unwrap().key_id(), signs);
}

#[test]
fn a_bundle_that_holds_anything_but_anchors_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let waits = Upstream::read(&domain("broker.test"), &pipe).unwrap_err();
    assert!(waits.ends_with("not a regular file"), "{waits}");
    let company = Company::new("company.test");
    let parse = |text: &str| Upstream::parse(domain("broker.test"), text.as_bytes()).unwrap_err();
    assert_eq!(parse(""), "there is no certificate in it");
    let leaf = company.root.svid("agent");
    let why = parse(&(company.root.pem() + &pem("CERTIFICATE", &leaf.chain[0])));
    assert!(why.starts_with("a certificate in it can be no anchor"), "{why}");
    assert!(parse(&"x".repeat(200 * 1024)).contains("128 KiB"));
    let many: String = (0..17).map(|_| Ca::new("company.test").pem()).collect();
    assert!(parse(&many).contains("more than 16"));
    let jwks = Upstream::parse(domain("broker.test"), company.root.jwk_set().as_bytes()).unwrap();
    assert_eq!(jwks.anchors(), company.upstream().anchors());
}
