//! A certificate authority for one's own machine: the one place that makes identities, for `demo` and `dev` alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use zeroize::Zeroizing;

use super::failure::Failure;
use crate::identity::{SpiffeId, TrustDomain};
use crate::ids::random;
use crate::time::Timestamp;

/// How long a root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far before its making a certificate begins to be valid.
const BACKDATE: Duration = Duration::from_secs(60);

/// The root of a trust domain, with its private key.
pub(super) struct DevCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// What a workload holds. The key's text is wiped when dropped.
pub(super) struct Workload<'a> {
    /// Its SPIFFE ID.
    pub(super) id: &'a SpiffeId,
    /// It serves as `localhost` too, for clients that look at names.
    pub(super) serves: bool,
}

impl DevCa {
    /// A new root.
    pub(super) fn create(trust_domain: &TrustDomain, now: Timestamp) -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(not_made)?;
        let mut params = params(now, now.saturating_add(ROOT_LIFETIME))?;
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} development root"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(not_made)?.pem();
        Self::load(certificate_pem, key)
    }

    /// The root that lies in these texts.
    pub(super) fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, Failure> {
        Self::load(certificate_pem, KeyPair::from_pem(key_pem).map_err(not_made)?)
    }

    fn load(certificate_pem: String, key: KeyPair) -> Result<Self, Failure> {
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(not_made)?;
        Ok(Self { issuer, certificate_pem })
    }

    /// The trust bundle.
    pub(super) fn bundle_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The root's private key.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// An X.509-SVID for `key`, in PEM.
    pub(super) fn issue(
        &self,
        workload: &Workload<'_>,
        key: &KeyPair,
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<String, Failure> {
        let mut params = params(now, not_after)?;
        params.distinguished_name.push(DnType::OrganizationName, "Taskpass development");
        params.subject_alt_names = vec![uri(workload.id.as_str())?];
        if workload.serves {
            params.subject_alt_names.extend([
                SanType::DnsName("localhost".try_into().map_err(not_made)?),
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ]);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(key, &self.issuer).map_err(not_made)?.pem())
    }
}

fn params(now: Timestamp, not_after: Timestamp) -> Result<CertificateParams, Failure> {
    let epoch = date_time_ymd(1970, 1, 1);
    let seconds = |at: Timestamp| Duration::from_secs(at.as_secs());
    let mut params = CertificateParams::default();
    params.not_before = epoch + seconds(now.saturating_sub(BACKDATE));
    params.not_after = epoch + seconds(not_after);
    params.distinguished_name = DistinguishedName::new();
    // Renewed for the same key, a certificate must not have the serial number of the one before.
    let mut serial: [u8; 16] = random().map_err(|error| Failure::failed(error.public()))?;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, Failure> {
    Ok(SanType::URI(text.try_into().map_err(not_made)?))
}

fn not_made(why: rcgen::Error) -> Failure {
    Failure::at("making a certificate", why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;
    use crate::identity::{PeerJudge, PeerRefusal, Side, TrustBundle, TrustBundles};

    fn judged(ca: &DevCa, svid: &str, now: Timestamp) -> Result<String, PeerRefusal> {
        let bundle = TrustBundle::parse("example.org".parse().unwrap(), ca.bundle_pem().as_bytes()).unwrap();
        assert_eq!((bundle.len(), bundle.skipped()), (1, [].as_slice()));
        let judge = PeerJudge::new(Arc::new(TrustBundles::new([bundle])), Side::Client);
        let chain = [CertificateDer::from_pem_slice(svid.as_bytes()).unwrap()];
        judge.judge(&chain, now).map(|peer| peer.spiffe_id().to_string())
    }

    #[test]
    fn what_it_issues_passes_every_spiffe_rule_until_it_expires() {
        let now = Timestamp::from_secs(1_800_000_000);
        let made = DevCa::create(&"example.org".parse().unwrap(), now).unwrap();
        let ca = DevCa::from_pem(made.bundle_pem().to_owned(), &made.key_pem()).unwrap();
        let id = "spiffe://example.org/agent/a".parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let end = now.saturating_add(Duration::from_secs(60));
        for serves in [false, true] {
            let svid = ca.issue(&Workload { id: &id, serves }, &key, now, end).unwrap();
            assert_eq!(judged(&made, &svid, now).unwrap(), "spiffe://example.org/agent/a");
            let later = end.saturating_add(Duration::from_secs(1));
            assert_eq!(judged(&made, &svid, later), Err(PeerRefusal::Expired));
        }
    }

    #[test]
    fn renewed_for_the_same_key_a_certificate_has_another_serial_number() {
        let now = Timestamp::from_secs(1_800_000_000);
        let ca = DevCa::create(&"example.org".parse().unwrap(), now).unwrap();
        let (id, key) = ("spiffe://example.org/agent/a".parse().unwrap(), KeyPair::generate().unwrap());
        let issue = || {
            ca.issue(&Workload { id: &id, serves: false }, &key, now, now.saturating_add(BACKDATE)).unwrap()
        };
        let serial = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
        };
        assert_ne!(serial(&issue()), serial(&issue()));
    }
}
