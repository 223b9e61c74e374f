//! The keys of one connection: for packets, and for reports.

use std::{net::SocketAddr, sync::Arc};

use rtc::{
    dtls::{endpoint::Endpoint, extension::extension_use_srtp::SrtpProtectionProfile},
    shared::error::Error,
    srtp::{
        config::{Config, LABEL_EXTRACTOR_DTLS_SRTP},
        context::Context,
        option::srtcp_replay_protection,
        protection_profile::ProtectionProfile,
    },
};

use super::{identity::Identity, rtp::Keys};

/// Reports by which a report may be late and still be told from a replay.
const REPLAY_WINDOW: usize = 64;

/// What protects and opens reports.
pub(super) struct Reports {
    pub(super) ours: Context,
    pub(super) theirs: Context,
    pub(super) ssrc: u32,
}

/// What the handshake of `endpoint` with `peer` has made (RFC 5764 section 4.2).
///
/// # Errors
/// It is not done, or has agreed on what we cannot do.
pub(super) fn exported(
    identity: &Identity,
    endpoint: Option<&Endpoint>,
    peer: SocketAddr,
) -> Result<(Keys, Reports), Error> {
    let endpoint = endpoint.ok_or(Error::ErrDtlsTransportNotStarted)?;
    let state = endpoint.get_connection_state(peer).ok_or(Error::ErrDtlsTransportNotStarted)?;
    let profile = match state.srtp_protection_profile() {
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32 => ProtectionProfile::Aes128CmHmacSha1_32,
        _ => return Err(Error::ErrNoSuchSrtpProfile),
    };
    let mut config = Config { profile, ..Config::default() };
    let material = state.export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], config.keying_material_len())?;
    config.set_session_keys_from_keying_material(material.as_ref(), state.is_client())?;
    let (session, provider) = (Arc::new(config.keys), identity.provider.clone());
    let crypto = provider.crypto();
    let replay = Some(srtcp_replay_protection(REPLAY_WINDOW));
    let reports = Reports {
        ours: Context::new(&session.local_master_key, &session.local_master_salt, profile, None, None, crypto)?,
        theirs: Context::new(&session.remote_master_key, &session.remote_master_salt, profile, None, replay, crypto)?,
        ssrc: identity.random_number()? as u32,
    };
    Ok((Keys { session, profile, provider }, reports))
}
