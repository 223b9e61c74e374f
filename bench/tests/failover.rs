//! `bench failover` on this machine, with what takes long shortened.
#![allow(clippy::unwrap_used)]

mod rig;

use serde_json::Value;

/// Plays one scenario; it must show what it promises.
fn shows_what_it_must(scenario: &str) {
    // A test is no measurement: it must not fail because other things run on the machine.
    let arguments = ["failover", "--short", "--patience", "4", "--scenario", scenario];
    let (_, outcomes) = rig::bench::<Value>(&arguments);
    assert_eq!(outcomes.as_array().unwrap().len(), 1);
    let outcome = &outcomes[0];
    assert_eq!((&outcome["fault"], &outcome["meetings_dropped"]), (&scenario.into(), &0.into()));
    assert_eq!(outcome["words_doubled"], 0);
    assert!(outcome["resume_ms"].is_u64() && outcome["gap_ms"].is_u64() && outcome["frames_lost"].is_u64());
}

#[test]
fn loss_in_bursts_on_one_uplink_delays_frames_and_loses_none_of_them() {
    shows_what_it_must("bursty-loss");
}

#[test]
fn a_core_killed_in_the_middle_of_a_word_loses_and_doubles_nothing() {
    shows_what_it_must("core-killed");
}

#[test]
fn nor_does_one_that_is_killed_where_nats_keeps_which_core_serves() {
    shows_what_it_must("core-killed-nats");
}

#[test]
fn an_edge_killed_is_replaced_within_three_seconds_and_the_gap_is_named() {
    shows_what_it_must("edge-killed");
}

#[test]
fn one_of_two_edges_killed_is_not_noticed() {
    shows_what_it_must("edge-killed-redundant");
}

#[test]
fn an_edge_that_reaches_no_core_for_a_while_loses_nothing() {
    shows_what_it_must("link-cut");
}

#[test]
fn a_cut_longer_than_a_lease_between_the_only_edge_and_the_only_core_changes_nothing() {
    shows_what_it_must("cut-6s");
}

#[test]
fn a_meeting_whose_edge_reaches_everybody_but_the_core_moves() {
    shows_what_it_must("partial-partition");
}

#[test]
fn a_full_disk_for_speech_costs_nothing_that_is_on_it() {
    shows_what_it_must("spill-full");
}

#[test]
fn five_hundred_meetings_that_are_made_at_once_are_all_active_and_stay_so() {
    shows_what_it_must("burst");
}

#[test]
fn logs_that_cannot_be_written_stop_nobody() {
    shows_what_it_must("log-full");
}

#[test]
fn whichever_task_breaks_the_meeting_goes_on() {
    shows_what_it_must("task-panics");
}

#[test]
fn a_meeting_that_is_ended_while_its_edge_is_cut_off_loses_nothing_either() {
    shows_what_it_must("ended-in-cut");
}

#[test]
fn a_meeting_goes_on_in_a_region_that_is_cut_off() {
    shows_what_it_must("region-isolated");
}

#[test]
fn an_edge_that_stood_still_is_fenced() {
    shows_what_it_must("stall");
}

#[test]
fn speech_that_a_narrow_link_does_not_let_pass_is_encoded_anew_and_not_lost() {
    shows_what_it_must("thin-uplink");
}

#[test]
fn all_nodes_are_restarted_under_a_meeting_without_losing_a_frame_of_it() {
    shows_what_it_must("rolling-restart");
}

#[test]
fn certificates_are_exchanged_under_a_meeting() {
    shows_what_it_must("certificate-rotation");
}

#[test]
fn an_old_backup_over_a_newer_world_undoes_nothing_that_was_published() {
    shows_what_it_must("restore-old-backup");
}

#[test]
fn edges_are_restarted_while_somebody_talks_at_janus_and_at_whep_without_losing_a_word() {
    shows_what_it_must("hand-over-talking");
}
