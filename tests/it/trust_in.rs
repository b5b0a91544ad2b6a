//! Trust that comes from elsewhere: bundle endpoints and Workload APIs, as they should be and as they should not.

mod check;
mod federation;
mod files;
mod restarted;
mod workload_api;

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identity::try_in;
use crate::support::broker::{Broker, Setup};
use crate::support::ca::{Ca, Svid, dns};
use crate::support::endpoint::{Endpoint, Says};
use crate::support::workload_api::{self as agent, State, WorkloadApi};
use crate::support::world::{OTHER_TENANT, TENANT};
use crate::support::{Store, eventually};

/// Three sources for three: a bundle endpoint, a Workload API at a port, and files for the broker itself.
#[tokio::test]
async fn c86_several_sources_at_once_do_not_touch_each_other() {
    let setup = Setup::on(Store::Embedded);
    let world = &setup.world;
    world.write("web-ca.pem", &world.broker_ca.pem());
    let web = world.broker_ca.svid_with("web", |it| it.subject_alt_names = vec![dns("localhost")]);
    let endpoint = Endpoint::new(&web, Says::Bundle(world.tenant.jwk_set())).await;
    let theirs = State::default().bundle(OTHER_TENANT, &[&world.other_tenant]);
    let (api, address) = WorkloadApi::tcp(agent::Says::State(theirs)).await;
    let url = endpoint.url();
    let setup = setup
        .trust(
            TENANT,
            format!("[trust_domains.federation]\nurl = \"{url}\"\nprofile = \"https_web\"\nca_file = \"web-ca.pem\"\n"),
        )
        .trust(
            OTHER_TENANT,
            format!("[trust_domains.workload_api]\nsocket = \"tcp://{address}\"\nkeep_for = \"3s\"\n"),
        );
    let broker = Broker::process(setup).await;
    let is_in = async |ca: &Ca| try_in(&broker, &ca.svid("agent/a1")).await.is_ok();
    eventually("both", async || is_in(&broker.world.tenant).await && is_in(&broker.world.other_tenant).await)
        .await;
    let task = broker.agent().docs_task().await;
    drop(api);
    eventually("the end of one", async || !is_in(&broker.world.other_tenant).await).await;
    assert!(is_in(&broker.world.tenant).await);
    broker.agent().get(&task.id).await.unwrap();
}

/// The certificate that the broker shows, whoever has signed it. Nothing: it shows none.
async fn shown(broker: &Broker) -> Option<CertificateDer<'static>> {
    let tcp = TcpStream::connect(broker.grpc).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(towards_anybody(None))).connect(name, tcp).await.ok()?;
    Some(tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Of a client that takes every server, with an SVID of its own if it has one.
fn towards_anybody(own: Option<&Svid>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Whatever));
    let mut config = match own {
        Some(svid) => builder.with_client_auth_cert(svid.chain.clone(), svid.key_der()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Takes every server for the right one.
#[derive(Debug)]
struct Whatever;

impl ServerCertVerifier for Whatever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
