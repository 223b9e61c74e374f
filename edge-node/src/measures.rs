//! What the edge's metrics count.

use mesh::telemetry::metric::{Metric, counter, gauge, histogram};

/// All of them.
pub const METRICS: &[Metric] = &[
    counter("nearfield_edge_connect_bad_candidates_total", "ICE candidates of relays that could not be used."),
    counter("nearfield_edge_connect_datagrams_dropped_total", "Datagrams from relays that were dropped, by reason."),
    counter("nearfield_edge_connect_dropped_total", "Packets dropped because their meeting was behind."),
    counter("nearfield_edge_connect_feeds_refused_total", "Publishers of a VideoRoom beyond what a meeting may have."),
    counter("nearfield_edge_connect_foreign_sessions_total", "WHEP sessions of another origin than their endpoint."),
    counter("nearfield_edge_connect_participants_refused_total", "Participants beyond what a meeting may have."),
    counter("nearfield_edge_connect_reconnects_total", "Relay connections that were lost and tried again."),
    gauge("nearfield_edge_connect_sockets", "UDP sockets that are open for media."),
    counter("nearfield_edge_connect_turn_refused_total", "TURN servers that gave no address."),
    counter("nearfield_edge_egress_denied_total", "Addresses that relays named and that are not to be gone to."),
    counter("nearfield_edge_flood_packets_dropped_total", "Packets above what a participant or a meeting may send."),
    counter("nearfield_edge_hand_overs_unanswered_total", "Meetings that no other edge took over in time."),
    histogram("nearfield_edge_jitter_wait_seconds", "How long the jitter buffer waits for a hole, by how it ended."),
    counter("nearfield_edge_lease_detours_total", "Renewals of leases sent by way of another node."),
    counter("nearfield_edge_leases_lost_total", "Meetings left because their lease had run out."),
    counter("nearfield_edge_link_events_overflowed_total", "Times that a meeting was behind with its link's events."),
    counter("nearfield_edge_link_lost_total", "Links to cores that were lost."),
    counter("nearfield_edge_meeting_panics_total", "Tasks of meetings that panicked."),
    counter("nearfield_edge_meeting_participants_refused_total", "Participants that a meeting had no room for."),
    counter("nearfield_edge_meeting_processes_lost_total", "Processes of meetings that died."),
    counter("nearfield_edge_meeting_unflushed_total", "Meetings that ended with speech that no core had."),
    gauge("nearfield_edge_meetings", "Meetings that this edge is in."),
    counter("nearfield_edge_meetings_broken_total", "Meetings given up after a panic, a stall or a flood."),
    counter("nearfield_edge_renewals_passed_on_total", "Renewals of leases passed on for other edges."),
    counter("nearfield_edge_spill_failures_total", "Times that speech could not be spilled to disk."),
    counter("nearfield_edge_spill_files_damaged_total", "Files of spilled speech that could not be read."),
    counter("nearfield_edge_spill_records_damaged_total", "Records of spilled speech that could not be read."),
    counter("nearfield_edge_spilled_bytes_total", "Bytes of speech spilled to disk."),
    counter("nearfield_edge_spurts_cut_total", "Talk spurts cut in two because they were too long."),
    counter("nearfield_edge_streams_refused_total", "Streams of cores that were of no use here."),
    counter("nearfield_edge_turns_total", "Times that a meeting turned to another core, by reason."),
    counter("nearfield_edge_uplink_steps_total", "Steps up and down the ladder of encodings, by the step taken."),
];
