//! The tables and their keys.

use std::ops::RangeInclusive;

use mesh::wire::MeetingId;
use redb::TableDefinition;

use crate::key::SpurtKey;

pub(super) const MEETINGS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("meetings");
pub(super) const PARTICIPANTS: TableDefinition<'_, (u128, &str), &[u8]> = TableDefinition::new("participants");
pub(super) const PLACEMENTS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("placements");
pub(super) const SPURTS: TableDefinition<'_, (u128, u64, &str, u32), &[u8]> = TableDefinition::new("spurts");
pub(super) const LOG: TableDefinition<'_, (u128, u64, &str, u32, u32), &[u8]> = TableDefinition::new("log");
pub(super) const SEQUENCES: TableDefinition<'_, u128, u64> = TableDefinition::new("sequences");
pub(super) const COVERS: TableDefinition<'_, (u128, &str, i64), &[u8]> = TableDefinition::new("covers");
pub(super) const SEGMENTS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("segments");
pub(super) const RECEIPTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sealed");
pub(super) const CLAIMS: TableDefinition<'_, u128, (u64, &[u8])> = TableDefinition::new("claims");
pub(super) const REVISIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("revisions");
pub(super) const STANDING: TableDefinition<'_, (u8, u128), ()> = TableDefinition::new("standing");
pub(super) const KEYS: TableDefinition<'_, &[u8], (u128, &str)> = TableDefinition::new("keys");
pub(super) const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
pub(super) const TAKEN: TableDefinition<'_, u128, (u32, &str, u64)> = TableDefinition::new("taken");
pub(super) const REMOVED: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("removed");

/// Receipts as text, before they were packed; they are made anew when they are asked for.
pub(super) const OLD_RECEIPTS: TableDefinition<'_, u128, &str> = TableDefinition::new("receipts");

pub(super) fn cover_keys(meeting: MeetingId) -> ((u128, &'static str, i64), (u128, &'static str, i64)) {
    ((meeting.as_u128(), "", i64::MIN), (after(meeting), "", i64::MIN))
}

pub(super) fn after(meeting: MeetingId) -> u128 {
    meeting.as_u128().saturating_add(1)
}

pub(super) fn both(meeting: MeetingId, first: u64) -> RangeInclusive<(u128, u64)> {
    (meeting.as_u128(), first)..=(meeting.as_u128(), u64::MAX)
}

pub(super) fn spurt_key(meeting: MeetingId, key: &SpurtKey) -> (u128, u64, &str, u32) {
    (meeting.as_u128(), key.epoch.0, &*key.participant, key.spurt.0)
}

pub(super) fn log_key(meeting: MeetingId, key: &SpurtKey, first: u32) -> (u128, u64, &str, u32, u32) {
    (meeting.as_u128(), key.epoch.0, &*key.participant, key.spurt.0, first)
}

pub(super) fn log_keys(meeting: MeetingId, key: &SpurtKey) -> RangeInclusive<(u128, u64, &str, u32, u32)> {
    log_key(meeting, key, 0)..=log_key(meeting, key, u32::MAX)
}
