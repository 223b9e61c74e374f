//! Certificates that change, expire and are revoked under running nodes.

use std::path::{Path, PathBuf};

use quinn::ConnectionError;

use super::*;
use crate::identity::certs::{CertPaths, Pem};

/// A node's files.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(authority: &Authority, node: &str) -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap() };
        files.write("ca.pem", authority.ca_pem());
        files.write("crl.pem", &authority.revoke(None, None, HOUR).unwrap());
        files.issue(authority, node);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn issue(&self, authority: &Authority, node: &str) {
        let (cert, key) = authority.issue(&name(node), HOUR).unwrap();
        self.write("key.pem", &key);
        self.write("cert.pem", &cert);
    }

    fn paths(&self) -> CertPaths {
        let [ca, cert, key, crl] = ["ca.pem", "cert.pem", "key.pem", "crl.pem"].map(|name| self.path(name));
        CertPaths { ca, cert, key, crl: Some(crl) }
    }

    fn cert(&self) -> String {
        std::fs::read_to_string(self.path("cert.pem")).unwrap()
    }

    async fn start(&self, seeds: &[SocketAddr]) -> (Node, mpsc::Receiver<Inbound>) {
        let credentials = Credentials::load(&self.paths(), DOMAIN).unwrap();
        let rest = settings(&authority(), "unused", seeds);
        Node::start(Settings { credentials, ..rest }).await.unwrap()
    }

    /// What is in the files now, taken up at once.
    fn take_up(&self, node: &Node) {
        let pem: Pem = self.paths().read().unwrap();
        node.renew(node.credentials().renewed(&pem).unwrap()).unwrap();
    }
}

async fn two(authority: &Authority) -> ([Files; 2], Node, Node, [mpsc::Receiver<Inbound>; 2]) {
    let files = [Files::new(authority, "a"), Files::new(authority, "b")];
    let (a, a_in) = files[0].start(&[]).await;
    let (b, b_in) = files[1].start(&[a.address()]).await;
    tokio::join!(sees(&a, &["b"]), sees(&b, &["a"]));
    (files, a, b, [a_in, b_in])
}

/// How `peer`'s connection ends, which must be soon.
async fn end(peer: &Peer) -> ConnectionError {
    timeout(PATIENCE, peer.connection.closed()).await.expect("the connection ends")
}

fn closed_with(error: &ConnectionError) -> Option<VarInt> {
    if let ConnectionError::ApplicationClosed(closed) = error { Some(closed.error_code) } else { None }
}

#[tokio::test]
async fn an_authority_is_exchanged_under_an_open_connection_and_only_the_end_of_trust_closes_it() {
    let (old, new) = (authority(), authority());
    let (files, a, b, _inbound) = two(&old).await;
    let first = b.peer(&id("a")).await.unwrap();
    let both = format!("{}{}", new.ca_pem(), old.ca_pem());
    for (files, node) in files.iter().zip([&a, &b]) {
        files.write("ca.pem", &both);
        files.take_up(node);
    }
    for ((files, node), name) in files.iter().zip([&a, &b]).zip(["a", "b"]) {
        files.issue(&new, name);
        files.take_up(node);
    }
    // A new handshake shows the new leaves, both sides of it; the old connection lives on.
    let (there, second) = b.shared.transport.dial(a.address()).await.unwrap();
    assert_eq!((there.node.as_str(), first.connection.close_reason()), ("a", None));
    let chain = second.peer_identity().unwrap().downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap();
    use rustls::pki_types::pem::PemObject;
    assert_eq!(chain[0], rustls::pki_types::CertificateDer::from_pem_slice(files[0].cert().as_bytes()).unwrap());

    files[0].write("ca.pem", new.ca_pem());
    files[0].take_up(&a);
    assert_eq!(closed_with(&end(&first).await), Some(code::UNTRUSTED));
    assert_eq!(second.close_reason(), None);
    // What is dialled now authenticates anew and is taken.
    let again = b.peer(&id("a")).await.unwrap();
    assert_eq!(again.connection.close_reason(), None);
    tokio::join!(sees(&a, &["b"]), sees(&b, &["a"]));
}

#[tokio::test]
async fn a_revoked_node_loses_its_connection_and_is_refused_until_it_has_a_new_certificate() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (files, a, b, _inbound) = two(&authority).await;
    let peer = b.peer(&id("a")).await.unwrap();
    files[0].write("crl.pem", &authority.revoke(None, Some(&files[1].cert()), HOUR).unwrap());
    files[0].take_up(&a);
    assert_eq!(closed_with(&end(&peer).await), Some(code::REVOKED));
    let refused = r#"nearfield_mesh_peers_refused_total{reason="certificate_revoked"}"#;
    counted(&counters, refused, 1).await;

    let before = count(&counters, refused);
    let failed = r#"nearfield_mesh_handshakes_failed_total{side="dialled",reason="certificate_revoked"}"#;
    if let Ok((_, connection)) = b.shared.transport.dial(a.address()).await {
        let error = timeout(PATIENCE, connection.closed()).await.unwrap();
        assert_eq!(crate::transport::connection_reason(&error), "certificate_revoked", "{error}");
    }
    counted(&counters, failed, 1).await;
    assert!(count(&counters, refused) > before);

    files[1].issue(&authority, "b");
    files[1].take_up(&b);
    tokio::join!(sees(&a, &["b"]), sees(&b, &["a"]));
    let again = b.shared.transport.dial(a.address()).await.unwrap();
    assert!(timeout(Duration::from_millis(300), again.1.closed()).await.is_err(), "taken for good");
}

#[tokio::test]
async fn a_certificate_that_expires_ends_its_connection_and_is_refused() {
    let (counters, _guard) = counters();
    let authority = authority();
    let (a, _a_in) = start(&authority, "a", &[]).await;
    let now = SystemTime::now();
    // Certificates know whole seconds: good for 1 to 2 s.
    let (cert, key) = authority.issue_between(&name("brief"), now - HOUR, now + Duration::from_secs(2)).unwrap();
    let brief = outsider(authority.ca_pem(), &cert, &key);
    let connection = brief.connect(a.address(), "mesh.a.test").unwrap().await.unwrap();
    let error = timeout(PATIENCE, connection.closed()).await.expect("the connection ends");
    assert_eq!(closed_with(&error), Some(code::EXPIRED), "{error}");
    assert!(now.elapsed().unwrap() < Duration::from_secs(10));
    let refused = r#"nearfield_mesh_peers_refused_total{reason="certificate_expired"}"#;
    assert_eq!(count(&counters, refused), 1);
    if let Ok(connection) = brief.connect(a.address(), "mesh.a.test").unwrap().await {
        let error = connection.closed().await;
        assert_eq!(crate::transport::connection_reason(&error), "certificate_expired", "{error}");
    }
    counted(&counters, refused, 2).await;
}

#[tokio::test]
async fn new_files_are_found_and_bad_ones_kept_out() {
    let (counters, _guard) = counters();
    let authority = authority();
    let files = Files::new(&authority, "a");
    let (a, _a_in) = files.start(&[]).await;
    let renewals = |outcome| format!("nearfield_mesh_certificate_renewals_total{{outcome=\"{outcome}\"}}");

    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    counted(&counters, &renewals("refused"), 1).await;
    let (b, _b_in) = start(&authority, "b", &[a.address()]).await;
    sees(&b, &["a"]).await;

    files.issue(&authority, "a");
    counted(&counters, &renewals("taken"), 1).await;
    let peer = b.shared.transport.dial(a.address()).await.unwrap().1;
    let shown = peer.peer_identity().unwrap().downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap();
    use rustls::pki_types::pem::PemObject;
    assert_eq!(shown[0], rustls::pki_types::CertificateDer::from_pem_slice(files.cert().as_bytes()).unwrap());
    assert_eq!(count(&counters, &renewals("refused")), 1);
}

#[test]
fn a_forged_list_another_node_s_certificate_and_a_missing_file_are_refused() {
    let (authority, other) = (authority(), authority());
    let files = Files::new(&authority, "a");
    let credentials = Credentials::load(&files.paths(), DOMAIN).unwrap();
    let refusal = || credentials.renewed(&files.paths().read().unwrap()).expect_err("refused").to_string();

    let list = std::fs::read_to_string(files.path("crl.pem")).unwrap();
    let forged = forge(&list);
    files.write("crl.pem", &forged);
    assert!(refusal().contains("bad revocation list"), "{}", refusal());
    files.write("crl.pem", "");
    assert!(refusal().contains("no PEM revocation list"), "{}", refusal());
    // Of an authority that is trusted no more: it concerns nobody.
    files.write("crl.pem", &(list.clone() + &other.revoke(None, None, HOUR).unwrap()));
    credentials.renewed(&files.paths().read().unwrap()).unwrap();

    files.issue(&authority, "b");
    assert!(refusal().contains("names edge `b`"), "{}", refusal());
    std::fs::remove_file(files.path("crl.pem")).unwrap();
    assert!(files.paths().read().is_err_and(|e| names(&e.to_string(), &files.path("crl.pem"))));
}

fn names(text: &str, path: &Path) -> bool {
    text.starts_with(&path.display().to_string())
}

/// The list with the last byte of its signature changed.
fn forge(pem: &str) -> String {
    use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut bytes = der.as_ref().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    rcgen_pem(&bytes)
}

fn rcgen_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN X509 CRL-----\n");
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let six = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= chunk.len() { six as char } else { '=' });
        }
    }
    text + "\n-----END X509 CRL-----\n"
}
