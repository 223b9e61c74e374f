//! The voices in a Janus room, for a meeting at Janus: Janus forwards what is sent to it, and who listens it knows alone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UdpSocket;

use super::voice::Voice;
use crate::janus::{Room, Rtp, ssrc};

/// Where voices are sent to, rather than to subscribers of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// A Janus of which rooms are called by texts.
    pub url: String,
    /// The room.
    pub room: String,
}

/// The voices as publishers of the room.
pub(super) struct Published {
    socket: UdpSocket,
    lines: Vec<(SocketAddr, Arc<Voice>)>,
}

impl Published {
    /// Lets the voices in.
    pub(super) async fn join(plan: &Plan, voices: &[Arc<Voice>]) -> Result<Self> {
        let mut room = Room::open(&plan.url).await?;
        let url = reqwest::Url::parse(&plan.url)?;
        let ip = url.host_str().and_then(|host| host.parse().ok()).context("the Janus is not named by its address")?;
        let mut lines = vec![];
        for voice in voices {
            let port = room.publish(&json!(plan.room), &json!(&*voice.id), &voice.name, 1).await?;
            lines.push((SocketAddr::new(ip, port), voice.clone()));
        }
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?, lines })
    }

    /// Sends a step of the clock; false if some of it could not be.
    pub(super) fn send(&self, index: u32) -> bool {
        let mut sent = true;
        for (to, voice) in &self.lines {
            let Some(packet) = voice.packets.get(index as usize).and_then(Option::as_ref) else { continue };
            let rtp = Rtp {
                ssrc: ssrc(0),
                sequence: packet.sequence,
                timestamp: packet.timestamp,
                marker: packet.marker,
                level: Some(packet.level),
                payload: &packet.payload,
            };
            sent &= self.socket.try_send_to(&rtp.bytes(), *to).is_ok();
        }
        sent
    }
}
