//! Lists under keys that move, read by OpenSSL and by webpki.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder,
};

use super::*;
use crate::cert::{CertIssuer, IssuedCertificate, LeafRequest, ProvenPublicKey};
use crate::ids::{CredentialId, Partition, new_task_id};
use crate::keys::publish::pem;
use crate::keys::testing::{MemoryStore, domain, kek, plan};
use crate::keys::{Keeper, KeyUse, Move, Unaccounted};
use crate::time::{Clock as _, SystemClock};

const VALIDITY: Duration = Duration::from_secs(300);

/// OpenSSL goes by the clock of the machine.
fn now() -> Timestamp {
    SystemClock.now()
}

async fn keeper() -> Keeper {
    Keeper::open(Arc::<MemoryStore>::default(), Arc::new(kek(7)), plan(&[]), Arc::new(Unaccounted), now())
        .await
        .unwrap()
}

fn issue(keeper: &Keeper) -> IssuedCertificate {
    let request =
        CertificateParams::new([]).unwrap().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let key = ProvenPublicKey::from_csr_der(request.der()).unwrap();
    let id = CredentialId { task: new_task_id(now(), Partition::from_low_bits(9)).unwrap(), number: 258 };
    let (issued_at, agent) = (now().floor_to_second(), "spiffe://acme.test/agent".parse().unwrap());
    let expires_at = issued_at.saturating_add(VALIDITY);
    let leaf = LeafRequest { id, agent: &agent, key: &key, issued_at, expires_at };
    CertIssuer::new(Arc::clone(keeper.current().task_ca().unwrap())).issue(&leaf).unwrap()
}

/// All lists of the keyring in force: `revoked` on those of the intermediates.
async fn lists(keeper: &Keeper, revoked: &[&IssuedCertificate]) -> Vec<RevocationList> {
    let keyring = keeper.current();
    let entry = |one: &&IssuedCertificate| Revoked {
        serial: one.id.to_bytes().to_vec(),
        at: now(),
        why: Why::Ceased,
    };
    let revoked: Vec<_> = revoked.iter().map(entry).collect();
    let given_up = keyring.given_up_intermediates().unwrap().into_iter();
    let given_up: Vec<_> =
        given_up.map(|one| Revoked { serial: one.serial, at: one.since, why: Why::KeyCompromised }).collect();
    let sign = |signer: &ListSigner, entries| {
        sign_list(signer, entries, now().as_millis(), now(), VALIDITY).unwrap()
    };
    let mut lists: Vec<_> =
        keeper.list_signers(&keyring).await.unwrap().0.iter().map(|signer| sign(signer, &revoked)).collect();
    lists.push(sign(&keeper.root_list_signer(&keyring).await.unwrap().unwrap(), &given_up));
    lists
}

/// `Err` with the words of webpki if it refuses; OpenSSL has to agree.
fn judged(
    keeper: &Keeper,
    lists: &[RevocationList],
    issued: &IssuedCertificate,
) -> std::result::Result<(), String> {
    let root: CertificateDer<'_> = keeper.current().task_ca().unwrap().anchor().clone();
    let parsed: Vec<_> = lists
        .iter()
        .map(|list| CertRevocationList::from(BorrowedCertRevocationList::from_der(&list.der).unwrap()))
        .collect();
    let parsed: Vec<_> = parsed.iter().collect();
    let options =
        RevocationOptionsBuilder::new(&parsed).unwrap().with_depth(RevocationCheckDepth::Chain).build();
    let (leaf, anchors) = (
        EndEntityCert::try_from(&issued.chain[0]).unwrap(),
        [webpki::anchor_from_trusted_cert(&root).unwrap()],
    );
    let verdict = leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &issued.chain[1..],
        UnixTime::since_unix_epoch(Duration::from_millis(now().as_millis())),
        KeyUsage::client_auth(),
        Some(options),
        None,
    );
    let dir = tempfile::tempdir().unwrap();
    if let Some((accepted, said)) = openssl(dir.path(), &root, lists, issued) {
        assert_eq!(accepted, verdict.is_ok(), "{said}");
    }
    verdict.map(drop).map_err(|error| error.to_string())
}

fn openssl(
    dir: &Path,
    root: &[u8],
    lists: &[RevocationList],
    issued: &IssuedCertificate,
) -> Option<(bool, String)> {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    write("root.pem", pem("CERTIFICATE", root));
    write("leaf.pem", pem("CERTIFICATE", &issued.chain[0]));
    write("intermediate.pem", pem("CERTIFICATE", &issued.chain[1]));
    write("lists.pem", lists.iter().map(|list| pem("X509 CRL", &list.der)).collect());
    let arguments = "verify -x509_strict -crl_check_all -CAfile root.pem -CRLfile lists.pem \
                     -untrusted intermediate.pem leaf.pem";
    let ran = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output();
    let ran = ran.inspect_err(|why| eprintln!("SKIPPED: openssl does not run here ({why})")).ok()?;
    Some((ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned()))
}

fn revoked() -> std::result::Result<(), String> {
    Err(webpki::Error::CertRevoked.to_string())
}

#[tokio::test]
async fn an_intermediate_that_retires_goes_on_telling_what_was_revoked_under_it() {
    let keeper = keeper().await;
    let (first, good) = (issue(&keeper), issue(&keeper));
    let later = now().saturating_add(keeper.plan().times.publish_wait());
    let rotate = Move::Rotate(KeyUse::TaskCaIntermediate, domain("broker.test"));
    keeper.make(&rotate, false, later).await.unwrap().unwrap();
    let second = issue(&keeper);
    assert_ne!(first.chain[1], second.chain[1]);
    let lists = lists(&keeper, &[&first, &second]).await;
    assert_eq!(lists.len(), 4, "of the retiring, the active and the standby, and the root's");
    assert_eq!(judged(&keeper, &lists, &first), revoked());
    assert_eq!(judged(&keeper, &lists, &second), revoked());
    assert_eq!(judged(&keeper, &lists, &good), Ok(()));
    assert!(judged(&keeper, &lists[3..], &good).is_err(), "without its list nothing is known of it");
}

#[tokio::test]
async fn a38_the_roots_list_names_an_intermediate_that_was_given_up() {
    let keeper = keeper().await;
    let under_it = issue(&keeper);
    let stale = lists(&keeper, &[]).await;
    assert_eq!(judged(&keeper, &stale, &under_it), Ok(()));
    let given_up = keeper.current().task_ca().unwrap().key_id();
    keeper.make(&Move::Compromise(given_up), false, now()).await.unwrap().unwrap();
    let fresh = issue(&keeper);
    let lists = lists(&keeper, &[]).await;
    assert!(lists.iter().all(|list| list.authority != given_up), "it signs nothing any more");
    assert_eq!(judged(&keeper, &lists, &fresh), Ok(()));
    // Also by one who has kept its old list.
    let root = lists.last().unwrap().clone();
    assert_eq!(root.entries, 1);
    assert!(judged(&keeper, &[stale[0].clone(), root], &under_it).is_err());
    assert!(judged(&keeper, &lists, &under_it).is_err());
}

#[tokio::test]
async fn a_list_says_when_it_was_made_for_how_long_and_the_how_manieth_it_is() {
    let keeper = keeper().await;
    let signer = keeper.root_list_signer(&keeper.current()).await.unwrap().unwrap();
    let at = now();
    let none = sign_list(&signer, &[], 127, at, VALIDITY).unwrap();
    let (_, parsed) = CertificateRevocationList::from_der(&none.der).unwrap();
    assert_eq!(parsed.iter_revoked_certificates().count(), 0);
    assert_eq!(none.this_update, at.saturating_sub(BACKDATE).floor_to_second());
    assert_eq!(none.next_update, at.saturating_add(VALIDITY).floor_to_second());
    let mut before = none.der;
    for number in [128, 255, 256, 1 << 40, u64::MAX] {
        let list = sign_list(&signer, &[], number, at, VALIDITY).unwrap();
        let (_, parsed) = CertificateRevocationList::from_der(&list.der).unwrap();
        assert_eq!(parsed.crl_number().unwrap().to_string(), number.to_string());
        assert_ne!(list.der, before);
        before = list.der;
    }
    // What lies ahead by somebody's clock has happened by now.
    let ahead = Revoked { serial: vec![0x40; 20], at: at.saturating_add(VALIDITY), why: Why::Withdrawn };
    let list = sign_list(&signer, &[ahead], 1, at, VALIDITY).unwrap();
    let (_, parsed) = CertificateRevocationList::from_der(&list.der).unwrap();
    let named = parsed.iter_revoked_certificates().next().unwrap();
    assert_eq!(named.revocation_date.timestamp(), i64::try_from(at.as_secs()).unwrap());
    assert!(sign_list(&signer, &[], 1, Timestamp::from_millis(u64::MAX), VALIDITY).is_err());
}
