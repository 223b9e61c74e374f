//! Candidates of our own.

use std::net::SocketAddr;

use rtc::{
    ice::candidate::{
        Candidate, CandidateConfig, candidate_host::CandidateHostConfig, candidate_relay::CandidateRelayConfig,
    },
    shared::error::Error,
};

/// The `n`th of our own addresses, each preferred to the next (RFC 8445 section 5.1.2.1).
pub(super) fn host(address: SocketAddr, n: usize) -> Result<Candidate, Error> {
    const HOST: u32 = 126 << 24;
    let preference = u32::from(u16::MAX) - n as u32;
    let base_config = CandidateConfig { priority: HOST | preference << 8 | 255, ..at(address) };
    CandidateHostConfig { base_config, ..CandidateHostConfig::default() }.new_candidate_host()
}

/// An address at a TURN server that is spoken to from `local`.
pub(super) fn relay(address: SocketAddr, local: SocketAddr) -> Result<Candidate, Error> {
    let (rel_addr, rel_port) = (local.ip().to_string(), local.port());
    CandidateRelayConfig { base_config: at(address), rel_addr, rel_port, url: None }.new_candidate_relay()
}

fn at(address: SocketAddr) -> CandidateConfig {
    CandidateConfig {
        network: "udp".to_owned(),
        address: address.ip().to_string(),
        port: address.port(),
        component: 1,
        ..CandidateConfig::default()
    }
}
