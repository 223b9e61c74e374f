//! The metrics of this crate: those that every program has.

use super::metric::{Metric, counter, gauge};

/// What they count.
pub const METRICS: &[Metric] = &[
    gauge("nearfield_http_connections", "HTTP connections that are open."),
    counter("nearfield_http_connections_closed_total", "HTTP connections closed or refused by this side, by reason."),
    counter("nearfield_log_lines_lost_total", "Lines of the log that could not be written."),
    gauge("nearfield_mesh_addresses_shared", "Addresses that more than one node advertises as its own."),
    gauge("nearfield_mesh_certificate_expires_timestamp_seconds", "When this node's certificate expires, Unix time."),
    gauge("nearfield_mesh_certificate_refused", "1 while the certificate files hold something that cannot be used."),
    counter("nearfield_mesh_certificate_renewals_total", "Times that certificate files changed, by outcome."),
    counter("nearfield_mesh_certificates_fetched_total", "Certificates fetched to verify gossip by, by outcome."),
    gauge("nearfield_mesh_clock_ahead_seconds", "How far this clock was ahead of the last that was told to differ."),
    gauge("nearfield_mesh_connections", "Connections to other nodes."),
    counter("nearfield_mesh_connections_lost_total", "Connections to other nodes that ended, by reason."),
    gauge("nearfield_mesh_coordinate_error_ratio", "How far off this node believes its network coordinate to be."),
    counter("nearfield_mesh_coordinate_samples_total", "Round trips that the coordinate was learnt from, by outcome."),
    counter("nearfield_mesh_copies_bytes_total", "Bytes of redundant copies sent."),
    counter("nearfield_mesh_copies_dropped_total", "Redundant copies dropped for want of room, by side."),
    gauge(
        "nearfield_mesh_crl_next_update_timestamp_seconds",
        "When the list of revoked certificates is due, Unix time.",
    ),
    counter("nearfield_mesh_dials_total", "Connections to other nodes that were tried."),
    counter("nearfield_mesh_gossip_disbelieved_total", "Things said of other nodes and not believed, by reason."),
    counter("nearfield_mesh_gossip_dropped_total", "Gossip packets dropped for want of room, by queue."),
    counter("nearfield_mesh_gossip_packets_total", "Gossip packets, by direction."),
    counter("nearfield_mesh_gossip_refused_total", "Gossip packets that could not be read, or in another's name."),
    counter("nearfield_mesh_gossip_verified_total", "Signatures verified of what nodes say of themselves."),
    counter("nearfield_mesh_handshakes_failed_total", "Handshakes with other nodes that failed, by side and reason."),
    counter("nearfield_mesh_inbound_waits_total", "Times that a peer waited because this program was busy."),
    gauge("nearfield_mesh_local_health", "How much this node doubts itself: 0 is well."),
    gauge("nearfield_mesh_members", "Other nodes that are alive as this one sees it."),
    counter("nearfield_mesh_peers_refused_total", "Peers that were not let in, by reason."),
    counter("nearfield_mesh_denied_total", "Messages that the sender may not send here, by kind and reason."),
    counter("nearfield_mesh_requests_refused_total", "Requests of peers that were not heard, by reason."),
    counter("nearfield_task_panics_total", "Tasks that broke, by name."),
    gauge("nearfield_mesh_table_rows", "Rows of each table that outlives a packet, by name."),
    gauge("nearfield_mesh_twins", "Other nodes met in the last 90 seconds that have this node's id."),
    counter("nearfield_mesh_unknown_total", "Things of a kind this version does not know, by what carried them."),
];
