//! What a disk says.

use mesh::codec;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    replicate::entry::Entry,
    speech::utterance::Cover,
    store::{
        Chunk, SpurtRecord, json,
        record::{MeetingRecord, Participant, removal::Removal},
        to_json,
    },
    transcript::Segment,
};

/// A row of the store, of any of its tables: what can be read is written so that it reads the same. A row that says to have a
/// checksum has the right one.
///
/// # Panics
/// This crate is wrong.
pub fn stored(data: &[u8]) {
    let mut row = data.to_vec();
    if let Some(([1 | 2, sum @ ..], rest)) = row.split_first_chunk_mut::<5>() {
        *sum = crc32fast::hash(rest).to_be_bytes();
    }
    survives::<MeetingRecord>(&row);
    survives::<Participant>(&row);
    survives::<Segment>(&row);
    survives::<Cover>(&row);
    survives::<Removal>(&row);
    survives::<Entry>(&row);
    survives::<serde_json::Value>(&row);
    coded::<SpurtRecord>(&row);
    coded::<Chunk>(&row);
}

/// What the store reads.
pub(super) fn reread<T: DeserializeOwned>(row: &[u8]) -> Option<T> {
    json("any", row).ok()
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(row: &[u8]) {
    let Some(value) = reread::<T>(row) else { return };
    let written = to_json("any", &value).expect("what was read can be written");
    assert_eq!(reread::<T>(&written), Some(value));
}

fn coded<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(row: &[u8]) {
    let Ok(value) = codec::decode::<T>(row) else { return };
    let written = codec::encode(&value).expect("what was read can be written");
    assert_eq!(codec::decode::<T>(&written), Ok(value));
}
