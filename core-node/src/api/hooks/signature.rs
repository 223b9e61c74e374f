//! Zoom's signature under a webhook: HMAC-SHA256 of `v0:TIME:BODY`, in hexadecimal digits.

use axum::http::HeaderMap;
use mesh::wire::request::Secret;
use ring::hmac;

/// How far off the time may be that was signed, in seconds: what was told long ago is not taken again.
const WINDOW: u64 = 5 * 60;

/// A secret token of an app's.
pub(super) struct Key(hmac::Key);

impl Key {
    pub(super) fn new(token: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, token.0.as_bytes()))
    }

    /// What it makes of this text, in hexadecimal digits.
    pub(super) fn sign(&self, text: &[u8]) -> String {
        hmac::sign(&self.0, text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a request bears.
pub(super) struct Signed {
    time: String,
    signature: Option<[u8; 32]>,
}

impl Signed {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let signature = text("x-zm-signature").strip_prefix("v0=").and_then(unhex);
        Self { time: text("x-zm-request-timestamp").to_owned(), signature }
    }

    /// Whether it is over this body, of now (Unix time in seconds) or nearly so. The comparison takes as long whatever is wrong.
    pub(super) fn is_by(&self, key: &Key, body: &[u8], now: u64) -> bool {
        let (Some(signature), Ok(time)) = (self.signature, self.time.parse::<u64>()) else { return false };
        let signed = [b"v0:", self.time.as_bytes(), b":", body].concat();
        time.abs_diff(now) <= WINDOW && hmac::verify(&key.0, &signed, &signature).is_ok()
    }
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn signed(time: &str, signature: &str) -> Signed {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-zm-request-timestamp", time), ("x-zm-signature", signature)] {
            headers.insert(name, value.parse().unwrap());
        }
        Signed::of(&headers)
    }

    #[test]
    fn it_is_over_the_raw_body_of_now_by_this_token() {
        let key = Key::new(&Secret("token".into()));
        // printf %s 'v0:1800000000:{"a": 1}' | openssl dgst -sha256 -hmac token
        let right = "v0=eb160cad1a32ee92095f74f842e39499602ec585333cf7dba890c8e61bac4465";
        let body = br#"{"a": 1}"#;
        assert!(signed("1800000000", right).is_by(&key, body, NOW));
        assert!(signed("1800000000", right).is_by(&key, body, NOW + 300));
        assert!(signed("1800000000", right).is_by(&key, body, NOW - 300));
        assert!(!signed("1800000000", right).is_by(&key, body, NOW + 301), "it is old");
        assert!(!signed("1800000000", right).is_by(&key, body, NOW - 301), "it is of the future");
        assert!(!signed("1800000001", right).is_by(&key, body, NOW), "another time was signed");
        assert!(!signed("1800000000", right).is_by(&key, br#"{"a":1}"#, NOW), "another body was");
        assert!(!signed("1800000000", right).is_by(&Key::new(&Secret("other".into())), body, NOW));
        for bad in ["", "v0=", "v0=00", &right[3..], &right.replace("v0", "v1"), &format!("{right}0"), "v0=+1"] {
            assert!(!signed("1800000000", bad).is_by(&key, body, NOW), "{bad}");
        }
        assert!(!signed("", right).is_by(&key, body, NOW));
    }
}
