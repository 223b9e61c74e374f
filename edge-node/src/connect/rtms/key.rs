//! What a stream is called, and what lets us have it.

use mesh::wire::request::Secret;
use ring::hmac;

/// One stream of one meeting, for one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Key {
    /// Zoom's id of the meeting's instance.
    pub(in super::super) meeting_uuid: String,
    /// Of the stream.
    pub(in super::super) stream_id: String,
    /// Of the app.
    pub(in super::super) client_id: String,
    /// The app's secret.
    pub(in super::super) client_secret: Secret,
}

impl Key {
    /// HMAC-SHA256 over the three ids by the app's secret, in hexadecimal digits: the same in both handshakes.
    pub(super) fn signature(&self) -> String {
        let signed = format!("{},{},{}", self.client_id, self.meeting_uuid, self.stream_id);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.client_secret.0.as_bytes());
        hmac::sign(&key, signed.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_openssl_and_the_secret_is_in_no_debug_output() {
        let key = Key {
            meeting_uuid: "4nYtdqLVTVqGJ+QB62ED7Q==".into(),
            stream_id: "03db704592624398931a588dd78200cb".into(),
            client_id: "cid".into(),
            client_secret: Secret("s3cret".into()),
        };
        // printf %s 'cid,4nYtdqLVTVqGJ+QB62ED7Q==,03db704592624398931a588dd78200cb' | openssl dgst -sha256 -hmac s3cret
        assert_eq!(key.signature(), "32f334ec6330b2ae86d9aab66c1a976477d84c0db564f0fb8cff951f70ed737b");
        assert!(!format!("{key:?}").contains("s3cret"));
    }
}
