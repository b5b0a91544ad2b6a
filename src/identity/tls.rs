//! TLS 1.3 on ring with both sides named by SPIFFE IDs: never resumed, never without certificates (C44, C48, C49).

mod client;
mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::CertificateDer;

pub use client::{ClientTls, ConnectError};
pub use server::{Handshake, ServerTls};

/// The protocol that both sides speak above TLS.
pub(super) const ALPN: &[u8] = b"h2";
/// The protocol of bundle endpoints.
pub(super) const HTTP1: &[u8] = b"http/1.1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The signatures that a peer may prove its key with.
#[derive(Debug)]
struct Signatures(WebPkiSupportedAlgorithms);

impl Signatures {
    fn of(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// TLS 1.2 is not offered, so that its signatures are never asked for; should they be, they are refused.
fn no_tls12<T>() -> Result<T, rustls::Error> {
    Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
}

#[cfg(test)]
mod tests;
