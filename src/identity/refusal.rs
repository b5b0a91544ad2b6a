//! Why a peer is not who it says, one variant for each reason.

use crate::identity::spiffe_id::InvalidSpiffeId;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident $(($payload:ty))? = $tag:literal, $text:literal;)*) => {
        /// Why a peer was refused. [`PeerRefusal::as_str`] is the label in metrics and logs; `Display` is the sentence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum PeerRefusal {
            $($(#[$doc])* #[error($text)] $name $(($payload))?,)*
        }

        impl PeerRefusal {
            /// The label of this reason: `snake_case`, stable across versions, a closed set.
            pub const fn as_str(&self) -> &'static str {
                match self { $(refusals!(@pattern $name $($payload)?) => $tag,)* }
            }
        }
    };
    (@pattern $name:ident $payload:ty) => { Self::$name(_) };
    (@pattern $name:ident) => { Self::$name };
}

refusals! {
    /// The peer sent no certificate (C49).
    NoCertificate = "no_certificate", "no certificate was presented";
    /// The chain has more certificates than are looked at (C42).
    TooManyCertificates = "too_many_certificates", "the chain has too many certificates";
    /// A certificate is larger than is looked at (C42).
    CertificateTooLarge = "certificate_too_large", "a certificate of the chain is too large";
    /// Not an X.509 v3 certificate in DER, or an extension that is not what it must be (C23, C29).
    Malformed = "malformed", "a certificate is malformed";
    /// An extension stands there twice (C29).
    DuplicateExtension = "duplicate_extension", "a certificate has an extension twice";
    /// A critical extension that we do not know (C29).
    UnknownCriticalExtension = "unknown_critical_extension", "a certificate has an unknown critical extension";
    /// No URI among the alternative names (C20).
    NoUriSan = "no_uri_san", "the certificate names no URI";
    /// More than one URI among the alternative names (C20).
    ManyUriSans = "many_uri_sans", "the certificate names more than one URI";
    /// The one URI is not a SPIFFE ID (C01 to C12).
    InvalidSpiffeId(InvalidSpiffeId) = "invalid_spiffe_id", "the certificate's URI is no SPIFFE ID: it {0}";
    /// The SPIFFE ID is a trust domain's own (C22).
    NoPath = "no_path", "the certificate's SPIFFE ID has no path";
    /// A signing certificate, which never authenticates (C23, C33).
    CaAsLeaf = "ca_as_leaf", "the certificate is a signing certificate";
    /// Key usage allows to sign certificates or CRLs (C24).
    SigningKeyUsage = "signing_key_usage", "the certificate's key usage allows to sign certificates or CRLs";
    /// No key usage, not critical, without digitalSignature, or with a bit that no SVID has (C25).
    KeyUsage = "key_usage", "the certificate's key usage is not that of an SVID";
    /// Extended key usage is there without both clientAuth and serverAuth (C26), or an issuer's forbids this use (C36).
    ExtendedKeyUsage = "extended_key_usage", "the extended key usage does not allow this use";
    /// The subject is empty and the alternative names are not critical (C27).
    SanNotCritical = "san_not_critical", "the subject is empty and the alternative names are not critical";
    /// A key or a signature below the floor: RSA 2048, P-256, P-384, Ed25519, SHA-256 (C30).
    WeakKey = "weak_key", "a key or signature algorithm is below the floor";
    /// No bundle for the trust domain in the SPIFFE ID (C37).
    UnknownTrustDomain = "unknown_trust_domain", "the trust domain is unknown here";
    /// The trust domain's bundle holds no usable key: all its SVIDs are revoked (C40).
    EmptyBundle = "empty_bundle", "the trust domain's bundle holds no key";
    /// No path to an anchor of the trust domain in the SPIFFE ID (C37 to C39, C41).
    UntrustedIssuer = "untrusted_issuer", "the certificate does not lead to its own trust domain's bundle";
    /// An issuer of the chain, or its anchor, is on the list of denied authorities (C41).
    DeniedAuthority = "denied_authority", "an authority that the certificate leads through is denied";
    /// A signature in the chain does not verify.
    BadSignature = "bad_signature", "a signature in the chain is wrong";
    /// Past its notAfter (C28).
    Expired = "expired", "the certificate has expired";
    /// Before its notBefore (C28).
    NotYetValid = "not_yet_valid", "the certificate is not valid yet";
    /// An issuer of the chain is past its notAfter (C28).
    IssuerExpired = "issuer_expired", "an issuer of the certificate has expired";
    /// An issuer of the chain is before its notBefore (C28).
    IssuerNotYetValid = "issuer_not_yet_valid", "an issuer of the certificate is not valid yet";
    /// An issuer of the chain is no CA (C31, C34).
    IssuerNotCa = "issuer_not_ca", "an issuer of the certificate is no certificate authority";
    /// An issuer of the chain may not sign certificates (C31, C34).
    IssuerKeyUsage = "issuer_key_usage", "an issuer of the certificate may not sign certificates";
    /// An issuer of the chain has a SPIFFE ID with a path, or a malformed one (C32).
    IssuerSpiffeId = "issuer_spiffe_id", "an issuer of the certificate has a SPIFFE ID with a path";
    /// More issuers than a pathLenConstraint allows (C31).
    PathLength = "path_length", "the chain is longer than one of its issuers allows";
    /// A name constraint forbids the certificate, or is of a kind that is not evaluated (C35).
    NameConstraints = "name_constraints", "a name constraint forbids the certificate or cannot be evaluated";
    /// The certificates admit more paths than are tried (C42).
    PathTooComplex = "path_too_complex", "the chain admits too many paths";
    /// A trusted peer, but not the one that was asked for (C43, C48).
    NotTheExpectedPeer = "not_the_expected_peer", "the peer is trusted but is not the one expected";
}
