//! QUIC's settings on the mesh, and why.

use std::{sync::Arc, time::Duration};

use quinn::{AckFrequencyConfig, TransportConfig, VarInt};

use super::congestion::FlooredCubic;

/// Datagrams wait here for the congestion window; the oldest make room.
pub(crate) const DATAGRAM_BUFFER: usize = 64 * 1024;

/// Every setting that differs from quinn's default, which is tuned for web traffic.
pub(super) fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    // A silent peer is lost after 10 s. SWIM judges sooner (about 5 s) and asks others; this is the
    // backstop, long enough for the stalls of a wide-area route change.
    config.max_idle_timeout(Some(VarInt::from_u32(10_000).into()));
    // Four may be lost in a row before the above strikes; also holds NAT bindings open.
    config.keep_alive_interval(Some(Duration::from_millis(2_500)));
    // Between regions. The default of 333 ms makes the first retransmission wait a second.
    config.initial_rtt(Duration::from_millis(100));
    // SWIM only: 50 packets. The default of 1 MiB would hold minutes of stale gossip on a bad link.
    config.datagram_send_buffer_size(DATAGRAM_BUFFER);
    // What arrives while one task reads, with room for a burst from a node catching up.
    config.datagram_receive_buffer_size(Some(256 * 1024));
    // One uni stream per talk spurt: thousands of speakers at a time between one edge and one core.
    config.max_concurrent_uni_streams(VarInt::from_u32(4096));
    // Control and requests, most of them short.
    config.max_concurrent_bidi_streams(VarInt::from_u32(256));
    // A replayed spurt may be minutes of Opus: 256 KiB is over a minute at 32 kb/s and 10 Mbit/s at 200 ms.
    config.stream_receive_window(VarInt::from_u32(256 * 1024));
    // What one peer can make us hold unread in all.
    config.receive_window(VarInt::from_u32(8 * 1024 * 1024));
    config.send_window(8 * 1024 * 1024);
    config.ack_frequency_config(Some(acks()));
    config.congestion_controller_factory(Arc::new(FlooredCubic { floor: 64 * 1024 }));
    config
}

/// How a peer is to acknowledge what we send (draft-ietf-quic-ack-frequency-04; both ends run quinn).
fn acks() -> AckFrequencyConfig {
    let mut acks = AckFrequencyConfig::default();
    // Every ninth packet in a dense flow, or 10 ms after a lone one instead of 25: fewer acknowledgements for many
    // speakers, and a probe for a lost tail 15 ms sooner, since its timer counts this delay in (RFC 9002 section 6.2.1).
    acks.ack_eliciting_threshold(VarInt::from_u32(8));
    acks.max_ack_delay(Some(Duration::from_millis(10)));
    // A hole is told of at once: it starts the clock of the retransmission.
    acks.reordering_threshold(VarInt::from_u32(1));
    acks
}
