//! A JSON Web Signature in its flattened JSON serialization (RFC 7515 section 7.2.2), with the signer's certificates (`x5c`,
//! section 4.1.6).

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use mesh::identity::certs::{Algorithm, Credentials, SignError};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// The media type of what is signed (RFC 7515 section 4.1.9).
const TYPE: &str = "nearfield-receipt+jws";

/// The longest file that is read as one, in bytes.
pub const MAX_JWS: u64 = 8 << 20;

/// Certificates in one.
const MAX_CHAIN: usize = 16;

/// As it is sent and kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jws {
    payload: String,
    protected: String,
    signature: String,
}

/// What is said of the signature, signed with the rest. A member that is not known here may change its meaning: refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    x5c: Vec<String>,
}

/// A signature taken apart; nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What is signed.
    pub payload: Vec<u8>,
    /// What exactly was signed.
    pub message: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// How it was made.
    pub algorithm: Algorithm,
    /// The signer's certificates.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why bytes are no such signature.
#[derive(Debug, thiserror::Error)]
pub enum BadJws {
    /// Another shape.
    #[error("no signed receipt (a flattened JSON Web Signature): {0}")]
    Shape(serde_json::Error),
    /// A member is not base64.
    #[error("its `{0}` is not base64")]
    Base64(&'static str),
    /// The protected header has another shape.
    #[error("its protected header: {0}")]
    Header(serde_json::Error),
    /// It is signed, but no receipt.
    #[error("it is a `{0}`, not a `{TYPE}`")]
    Type(String),
    /// Signed in a way that nodes do not sign in.
    #[error("it is signed with `{0}`, which is none of ES256, ES384, RS256 and EdDSA")]
    Algorithm(String),
    /// More certificates than a chain has.
    #[error("more than {MAX_CHAIN} certificates")]
    Chain,
}

/// `payload`, signed by this node.
///
/// # Errors
/// Its key does not sign.
pub fn sign(payload: &[u8], credentials: &Credentials) -> Result<String, SignError> {
    let header = Header {
        alg: credentials.algorithm()?.name().into(),
        typ: TYPE.into(),
        x5c: credentials.chain().iter().map(|der| STANDARD.encode(der)).collect(),
    };
    let protected = URL_SAFE_NO_PAD.encode(json(&header));
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let signature = credentials.sign(format!("{protected}.{payload}").as_bytes())?;
    let signature = URL_SAFE_NO_PAD.encode(signature);
    Ok(json(&Jws { payload, protected, signature }))
}

/// Takes a signature apart.
///
/// # Errors
/// See [`BadJws`].
pub fn open(text: &[u8]) -> Result<Opened, BadJws> {
    let Jws { payload, protected, signature } = serde_json::from_slice(text).map_err(BadJws::Shape)?;
    let plain = |what, text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| BadJws::Base64(what));
    let header: Header = serde_json::from_slice(&plain("protected", &protected)?).map_err(BadJws::Header)?;
    if header.typ != TYPE {
        return Err(BadJws::Type(header.typ.chars().take(64).collect()));
    }
    if header.x5c.len() > MAX_CHAIN {
        return Err(BadJws::Chain);
    }
    let unknown = || BadJws::Algorithm(header.alg.chars().take(64).collect());
    let algorithm = Algorithm::named(&header.alg).ok_or_else(unknown)?;
    let der = |text: &String| STANDARD.decode(text).map(CertificateDer::from).map_err(|_| BadJws::Base64("x5c"));
    Ok(Opened {
        payload: plain("payload", &payload)?,
        signature: plain("signature", &signature)?,
        message: format!("{protected}.{payload}").into_bytes(),
        algorithm,
        chain: header.x5c.iter().map(der).collect::<Result<_, _>>()?,
    })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and lists of them always become JSON")
}
