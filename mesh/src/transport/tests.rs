#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use super::*;
use crate::identity::certs::Authority;

const HOUR: Duration = Duration::from_secs(3600);

fn transport(authority: &Authority, domain: &str, node: &str) -> Transport {
    let uri = format!("spiffe://{domain}/region/eu-central/role/edge/node/{node}");
    let (cert, key) = authority.issue(&Identity::from_spiffe(&uri, domain).unwrap(), HOUR).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, domain).unwrap();
    Transport::bind("127.0.0.1:0".parse().unwrap(), credentials).unwrap()
}

/// What the inbound side of `server` makes of its next peer.
fn next_peer(server: &Transport) -> tokio::sync::oneshot::Receiver<Result<Identity, HandshakeError>> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let send = Arc::new(std::sync::Mutex::new(Some(send)));
    let server = server.clone();
    tokio::spawn(async move {
        server
            .accept(move |_, outcome| {
                if let Some(send) = send.lock().unwrap().take() {
                    let _ = send.send(outcome.map(|(identity, connection)| {
                        // Held open for the test's life.
                        tokio::spawn(async move { connection.closed().await });
                        identity
                    }));
                }
            })
            .await;
    });
    receive
}

#[tokio::test]
async fn both_ends_learn_the_other_s_name() {
    let authority = Authority::create("a.test", HOUR).unwrap();
    let (one, two) = (transport(&authority, "a.test", "one"), transport(&authority, "a.test", "two"));
    let inbound = next_peer(&two);
    let (there, _connection) = one.dial(two.local_addr().unwrap()).await.unwrap();
    assert_eq!(there.node.as_str(), "two");
    assert_eq!(inbound.await.unwrap().unwrap().node.as_str(), "one");
}

#[tokio::test]
async fn a_peer_of_another_authority_is_refused_on_both_sides() {
    let ours = transport(&Authority::create("a.test", HOUR).unwrap(), "a.test", "one");
    let theirs = transport(&Authority::create("a.test", HOUR).unwrap(), "a.test", "two");
    let inbound = next_peer(&theirs);
    let error = ours.dial(theirs.local_addr().unwrap()).await.expect_err("refused");
    assert_eq!(error.reason(), "certificate", "{error}");
    assert_eq!(inbound.await.unwrap().expect_err("refused").reason(), "certificate");
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_under_the_same_authority_is_closed_with_its_code() {
    let authority = Authority::create("a.test", HOUR).unwrap();
    let server = transport(&authority, "a.test", "one");
    // The DNS name is the mesh's, so TLS accepts it; the URI is somebody else's.
    let uri = "spiffe://b.test/region/eu-central/role/edge/node/two";
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["mesh.a.test".into()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
    let ca_key = rcgen::KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(authority.ca_pem(), ca_key).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap().pem();
    let error = Credentials::from_pem(authority.ca_pem(), &cert, &key.serialize_pem(), "a.test").expect_err("own");
    assert!(error.to_string().contains("b.test"), "{error}");

    let outsider = outsider(authority.ca_pem(), &cert, &key.serialize_pem());
    let inbound = next_peer(&server);
    let connection = outsider.connect(server.local_addr().unwrap(), "mesh.a.test").unwrap().await.unwrap();
    assert_eq!(inbound.await.unwrap().expect_err("refused").reason(), "trust_domain");
    let ConnectionError::ApplicationClosed(closed) = connection.closed().await else { panic!("not closed by peer") };
    assert_eq!(closed.error_code, close::IDENTITY);
}

#[tokio::test]
async fn a_peer_without_a_common_version_is_refused_with_both_sides_versions() {
    let authority = Authority::create("a.test", HOUR).unwrap();
    let ours = transport(&authority, "a.test", "one");
    let identity = Identity::from_spiffe("spiffe://a.test/region/eu-central/role/edge/node/two", "a.test").unwrap();
    let (cert, key) = authority.issue(&identity, HOUR).unwrap();
    let later = vec![b"nearfield/9".to_vec(), b"nearfield/8\n".to_vec()];
    let theirs = speaking(authority.ca_pem(), &cert, &key, later);
    let inbound = next_peer(&ours);
    let refused = theirs.connect(ours.local_addr().unwrap(), "mesh.a.test").unwrap().await.expect_err("refused");
    let error = inbound.await.unwrap().expect_err("refused");
    assert!(error.is_refusal());
    let spoken = shown_ids(ours.wire().offer().iter().map(Vec::as_slice));
    let text = format!("no common wire version: this node speaks {spoken}, the other one nearfield/9, nearfield/8?");
    assert_eq!((error.reason(), error.to_string()), ("version", text));
    // What a dialler sees of it.
    assert_eq!(ours.failed(refused, || "none of these".into()).reason(), "version");
}

/// A client that our own checks would not let start.
pub(crate) fn outsider(ca: &str, cert: &str, key: &str) -> Endpoint {
    speaking(ca, cert, key, crate::wire::Version::NEWEST.offer())
}

/// The same, of a build that speaks `alpn`.
fn speaking(ca: &str, cert: &str, key: &str, alpn: Vec<Vec<u8>>) -> Endpoint {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = alpn;
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint
}
