//! Who we are to relays: a key and certificate of this process, and its cryptography.

use std::{sync::Arc, time::Duration};

use rtc::{
    crypto::{RTCCryptoProvider, default_provider},
    dtls::{
        config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig, VerifyPeerCertificateFn},
        crypto::Certificate,
        extension::extension_use_srtp::SrtpProtectionProfile,
    },
    shared::error::Error,
};

use super::fingerprint::{self, Fingerprint};

/// Before a flight of the handshake that was lost is sent again, and then each time: the default second (RFC 6347 section
/// 4.2.4.1) would be added to the join.
const FLIGHT: Duration = Duration::from_millis(400);

/// See the module.
pub(super) struct Identity {
    pub(super) provider: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    /// Of the certificate, as in `a=fingerprint`.
    pub(super) fingerprint: String,
}

impl Identity {
    pub(super) fn new() -> Result<Self, Error> {
        let provider = default_provider().map_err(|e| Error::Crypto(e.to_string()))?;
        let certificate = Certificate::generate_self_signed(vec!["nearfield".to_owned()], provider.crypto())?;
        let der = certificate.certificate.first().ok_or(Error::ErrNonCertificate)?;
        let fingerprint = fingerprint::ours(der);
        Ok(Self { provider, certificate, fingerprint })
    }

    /// Random letters and digits.
    pub(super) fn random_text(&self, length: usize) -> Result<String, Error> {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bytes = vec![0; length];
        self.provider.random().fill(&mut bytes).map_err(|e| Error::Crypto(e.to_string()))?;
        Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect())
    }

    /// A random number.
    pub(super) fn random_number(&self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.provider.random().fill(&mut bytes).map_err(|e| Error::Crypto(e.to_string()))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// As WebRTC has it: the peer's certificate is known by its fingerprint and nothing else.
    pub(super) fn handshake(&self, fingerprints: Vec<Fingerprint>, client: bool) -> Result<HandshakeConfig, Error> {
        let verify: VerifyPeerCertificateFn = Arc::new(move |certificates, _| {
            let der = certificates.first().ok_or(Error::ErrNonCertificate)?;
            if fingerprints.iter().any(|known| known.is_of(der)) {
                Ok(())
            } else {
                Err(Error::ErrNoMatchingCertificateFingerprint)
            }
        });
        ConfigBuilder::default()
            .with_crypto_provider(self.provider.clone())
            .with_certificates(vec![self.certificate.clone()])
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32,
            ])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(verify))
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(FLIGHT)
            .build(client, None)
    }
}
