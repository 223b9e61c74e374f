//! A signed receipt, as anybody may hand it in.

use std::{sync::OnceLock, time::Duration};

use geo::map::RegionMap;
use mesh::identity::certs::{Authority, Credentials};

use super::{core, record, segment};
use crate::{
    meeting::wall,
    receipt::{
        Receipt,
        jws::{open, sign},
        verify::{Against, verify},
    },
};

const DOMAIN: &str = "nearfield.test";

/// What a core has signed.
struct Signed {
    text: String,
    receipt: Receipt,
    ca: String,
    map: RegionMap,
}

/// Made once: keys are dear.
fn signed() -> &'static Signed {
    static SIGNED: OnceLock<Signed> = OnceLock::new();
    SIGNED.get_or_init(|| {
        let hour = Duration::from_secs(3600);
        let authority = Authority::create(DOMAIN, hour).expect("an authority");
        let (cert, key) = authority.issue(&core(), hour).expect("a certificate");
        let ca = authority.ca_pem().to_owned();
        let credentials = Credentials::from_pem(&ca, &cert, &key, DOMAIN).expect("credentials");
        let receipt = Receipt::made(&record(), &[segment()], &[], &core(), wall()).expect("it can be attested");
        let payload = serde_json::to_vec(&receipt).expect("a receipt can be written");
        let text = sign(&payload, &credentials).expect("a signature");
        Signed { text, receipt, ca, map: RegionMap::built_in() }
    })
}

/// A receipt: the bytes themselves, or, if the first is 0, a sound one with edits of three bytes each (two of position, and
/// what is put there). What proves to be signed is what was signed.
///
/// # Panics
/// This crate is wrong.
pub fn receipt(data: &[u8]) {
    let Some(([0], edits)) = data.split_first_chunk::<1>() else {
        if let Ok(opened) = open(data) {
            let _ = serde_json::from_slice::<Receipt>(&opened.payload);
        }
        return;
    };
    let signed = signed();
    let mut text = signed.text.clone().into_bytes();
    for [high, low, value] in edits.as_chunks::<3>().0 {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % text.len();
        text[at] = *value;
    }
    let against = Against { ca: signed.ca.as_bytes(), crl: None, map: &signed.map, transcript: None };
    match verify(&text, &against) {
        Ok((receipt, signer)) => assert_eq!((&receipt, &signer), (&signed.receipt, &core())),
        Err(e) => assert!(text != signed.text.as_bytes(), "{e}"),
    }
}
