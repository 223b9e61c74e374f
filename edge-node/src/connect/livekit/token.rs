//! Tokens that let us into a room: JSON Web Tokens (RFC 7519) under HMAC-SHA256, as
//! <https://docs.livekit.io/home/get-started/authentication/> has them.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use mesh::{clock::Micros, wire::request::Secret};
use ring::hmac;
use serde_json::{Value, json};

/// For so long a token lets somebody in. It is made anew each time.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// A server's clock may be behind ours by so much.
const SKEW: Duration = Duration::from_secs(60);

/// What we may do in `room`, and no more: come in, be seen by nobody, and listen.
pub(super) fn mint(key: &Secret, secret: &Secret, room: &str, identity: &str, now: Micros) -> Secret {
    let seconds = now.as_millis() / 1000;
    let claims = json!({
        "iss": key.0,
        "sub": identity,
        "nbf": seconds.saturating_sub(SKEW.as_secs()),
        "exp": seconds + LIFETIME.as_secs(),
        "video": {
            "roomJoin": true,
            "room": room,
            "hidden": true,
            "canSubscribe": true,
            "canPublish": false,
            "canPublishData": false,
        },
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(&claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes()), signed.as_bytes());
    Secret(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.into())
    }

    #[test]
    fn a_token_says_who_comes_where_for_how_long_and_that_they_only_listen() {
        let now = Micros(1_800_000_000_000_000);
        let Secret(token) = mint(&secret("devkey"), &secret("s3cret"), "standup", "nearfield-1", now);
        let parts: Vec<&str> = token.split('.').collect();
        let read = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        assert_eq!(read(parts[0]), json!({ "alg": "HS256", "typ": "JWT" }));
        let claims = read(parts[1]);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("devkey"), &json!("nearfield-1")));
        assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(1_799_999_940), &json!(1_800_000_600)));
        let video = &claims["video"];
        assert_eq!(
            (&video["room"], &video["hidden"], &video["canPublish"]),
            (&json!("standup"), &json!(true), &json!(false))
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
        let signature = BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        hmac::verify(&key, format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature).unwrap();
    }
}
