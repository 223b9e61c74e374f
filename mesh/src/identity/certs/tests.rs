#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use super::*;

const DOMAIN: &str = "nearfield.test";
const HOUR: Duration = Duration::from_secs(3600);

fn identity() -> Identity {
    Identity::from_spiffe("spiffe://nearfield.test/region/eu-central/role/edge/node/edge-1", DOMAIN).unwrap()
}

fn authority() -> Authority {
    Authority::create(DOMAIN, HOUR).unwrap()
}

/// Writes the three files into `dir` and loads them.
fn load(dir: &Path, ca: &str, cert: &str, key: &str) -> Result<Credentials, CertError> {
    let paths = CertPaths { ca: dir.join("ca.pem"), cert: dir.join("cert.pem"), key: dir.join("key.pem"), crl: None };
    for (path, text) in [(&paths.ca, ca), (&paths.cert, cert), (&paths.key, key)] {
        std::fs::write(path, text).unwrap();
    }
    Credentials::load(&paths, DOMAIN)
}

fn refusal(ca: &str, cert: &str, key: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    load(dir.path(), ca, cert, key).expect_err("refused").to_string()
}

#[test]
fn what_the_authority_issues_loads_and_names_the_node() {
    let authority = authority();
    let (cert, key) = authority.issue(&identity(), HOUR).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let credentials = load(dir.path(), authority.ca_pem(), &cert, &key).unwrap();
    assert_eq!(credentials.identity(), &identity());
    assert_eq!(credentials.server_name(), "mesh.nearfield.test");
    let left = credentials.expires().duration_since(SystemTime::now()).unwrap();
    assert!(left > HOUR - Duration::from_secs(60) && left <= HOUR);
}

#[test]
fn an_authority_loaded_from_its_files_issues_what_the_first_one_s_ca_accepts() {
    let first = authority();
    let again = Authority::load(DOMAIN, first.ca_pem(), &first.key_pem()).unwrap();
    let (cert, key) = again.issue(&identity(), HOUR).unwrap();
    Credentials::from_pem(first.ca_pem(), &cert, &key, DOMAIN).unwrap();
}

#[test]
fn a_missing_file_is_named() {
    let paths = CertPaths { ca: "/nonexistent/ca.pem".into(), cert: "c".into(), key: "k".into(), crl: None };
    let text = Credentials::load(&paths, DOMAIN).expect_err("refused").to_string();
    assert!(text.starts_with("/nonexistent/ca.pem: cannot be read"), "{text}");
}

#[test]
fn files_that_hold_something_else_are_named() {
    let authority = authority();
    let (cert, key) = authority.issue(&identity(), HOUR).unwrap();
    let text = refusal(authority.ca_pem(), &key, &key);
    assert!(text.contains("cert.pem: no PEM certificate"), "{text}");
    let text = refusal(authority.ca_pem(), &cert, &cert);
    assert!(text.contains("key.pem: no private key"), "{text}");
    let text = refusal("", &cert, &key);
    assert!(text.contains("ca.pem: no PEM certificate"), "{text}");
}

#[test]
fn a_file_that_is_cut_off_or_begins_with_a_mark_is_read_as_what_it_is() {
    let (authority, other) = (authority(), authority());
    let (cert, key) = authority.issue(&identity(), HOUR).unwrap();
    let cut = |pem: &str| pem[..pem.len() - 60].to_owned();
    let text = refusal(&format!("{}{}", authority.ca_pem(), cut(other.ca_pem())), &cert, &key);
    assert!(text.contains("ca.pem: certificate number 2 in it is damaged: "), "{text}");
    let wrong = other.ca_pem().replacen("MII", "MIA", 1);
    let text = refusal(&format!("{}{wrong}", authority.ca_pem()), &cert, &key);
    assert!(text.contains("ca.pem: certificate number 2 in it is damaged: "), "{text}");
    let text = refusal(authority.ca_pem(), &cert, &cut(&key));
    assert!(text.contains("key.pem: private key number 1 in it is damaged: "), "{text}");
    let marked = |pem: &str| format!("\u{feff}{pem}");
    let dir = tempfile::tempdir().unwrap();
    load(dir.path(), &marked(authority.ca_pem()), &marked(&cert), &marked(&key)).unwrap();
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let authority = authority();
    let (cert, key) = authority.issue(&identity(), HOUR).unwrap();
    for locked in [
        key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
        key.replace("PRIVATE KEY", "EC PRIVATE KEY").replacen(
            "-----\n",
            "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
            1,
        ),
    ] {
        let text = refusal(authority.ca_pem(), &cert, &locked);
        assert!(text.contains("key.pem: the private key has a password"), "{text}");
    }
    // PKCS#8 that says P-521, and no more.
    let unusual = "-----BEGIN PRIVATE KEY-----\nMBkCAQAwEAYHKoZIzj0CAQYFK4EEACMEAgUA\n-----END PRIVATE KEY-----\n";
    let text = refusal(authority.ca_pem(), &cert, unusual);
    assert!(text.contains("key.pem: this key cannot be used: it must be whole, and ECDSA on P-256"), "{text}");
}

#[test]
fn a_peer_s_certificate_that_is_not_valid_yet_is_not_called_untrusted() {
    let (authority, now) = (authority(), SystemTime::now());
    let (cert, key) = authority.issue(&identity(), HOUR).unwrap();
    let ours = Credentials::from_pem(authority.ca_pem(), &cert, &key, DOMAIN).unwrap();
    let (theirs, _) = authority.issue_between(&identity(), now + HOUR, now + 2 * HOUR).unwrap();
    let chain = read::certificates("theirs", theirs.as_bytes()).unwrap();
    assert_eq!(ours.check_chain(&chain, now), Err(Unacceptable::NotYetValid));
    assert!(ours.check_chain(&chain, now + HOUR + HOUR / 2).is_ok_and(|until| until > now + HOUR));
    assert_eq!(ours.check_chain(&chain, now + 3 * HOUR), Err(Unacceptable::Expired));
}

#[test]
fn another_certificate_s_key_is_refused() {
    let authority = authority();
    let (cert, _) = authority.issue(&identity(), HOUR).unwrap();
    let (_, other_key) = authority.issue(&identity(), HOUR).unwrap();
    let text = refusal(authority.ca_pem(), &cert, &other_key);
    assert!(text.contains("key.pem: not the key of the certificate in"), "{text}");
}

#[test]
fn expired_and_future_certificates_say_when() {
    let authority = authority();
    let now = SystemTime::now();
    let (cert, key) = authority.issue_between(&identity(), now - 3 * HOUR, now - HOUR).unwrap();
    let text = refusal(authority.ca_pem(), &cert, &key);
    assert!(text.contains("cert.pem: expired on ") && text.contains("this machine's clock says "), "{text}");
    let (cert, key) = authority.issue_between(&identity(), now + HOUR, now + 2 * HOUR).unwrap();
    let text = refusal(authority.ca_pem(), &cert, &key);
    assert!(text.contains("cert.pem: not valid before ") && text.contains("this machine's clock says "), "{text}");
}

#[test]
fn another_authority_and_another_trust_domain_are_refused() {
    let (ours, theirs) = (authority(), authority());
    let (cert, key) = theirs.issue(&identity(), HOUR).unwrap();
    let text = refusal(ours.ca_pem(), &cert, &key);
    assert!(text.contains("not accepted under the authorities in") && text.contains("none of them"), "{text}");

    let foreign = Authority::create("other.test", HOUR).unwrap();
    let (cert, key) = foreign.issue(&identity(), HOUR).unwrap();
    let text = refusal(foreign.ca_pem(), &cert, &key);
    assert!(text.contains("trust domain `other.test`, this mesh is `nearfield.test`"), "{text}");
}

#[test]
fn a_certificate_without_a_node_in_it_is_refused() {
    let plain = rcgen::generate_simple_self_signed(vec!["mesh.nearfield.test".into()]).unwrap();
    let pem = plain.cert.pem();
    let text = refusal(&pem, &pem, &plain.signing_key.serialize_pem());
    assert!(text.contains("0 URI subject alternative names"), "{text}");
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_are_no_certificate(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        proptest::prop_assert!(parse(&CertificateDer::from(bytes)).is_err());
    }
}
