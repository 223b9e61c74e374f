//! The tables, their keys and how values are written.

use std::ops::RangeInclusive;

use mesh::{codec, wire::MeetingId};
use redb::TableDefinition;
use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;
use crate::key::SpurtKey;

pub(super) const MEETINGS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("meetings");
pub(super) const PARTICIPANTS: TableDefinition<'_, (u128, &str), &[u8]> = TableDefinition::new("participants");
pub(super) const PLACEMENTS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("placements");
pub(super) const SPURTS: TableDefinition<'_, (u128, u64, &str, u32), &[u8]> = TableDefinition::new("spurts");
pub(super) const LOG: TableDefinition<'_, (u128, u64, &str, u32, u32), &[u8]> = TableDefinition::new("log");
pub(super) const SEQUENCES: TableDefinition<'_, u128, u64> = TableDefinition::new("sequences");
pub(super) const COVERS: TableDefinition<'_, (u128, &str, i64), &[u8]> = TableDefinition::new("covers");
pub(super) const SEGMENTS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("segments");
pub(super) const RECEIPTS: TableDefinition<'_, u128, &str> = TableDefinition::new("receipts");
pub(super) const CLAIMS: TableDefinition<'_, u128, (u64, &[u8])> = TableDefinition::new("claims");
pub(super) const REVISIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("revisions");

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

pub(super) fn json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Record { what, why: e.to_string() })
}

pub(super) fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Record { what, why: e.to_string() })
}

pub(super) fn coded<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(bytes).map_err(|e| StoreError::Record { what, why: e.to_string() })
}

pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    codec::encode(value).map_err(|e| StoreError::Record { what, why: e.to_string() })
}
