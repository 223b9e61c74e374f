//! What users send.

use mesh::{trace::TraceContext, wire::Term};

use super::{REPLICA, core, meeting, record, stored::reread};
use crate::{
    api::fuzzing::{accepted, queries, shown},
    replicate::{
        entry::Entry,
        receiver::{Receiver, StreamId},
    },
    store::{Op, record::MeetingRecord},
};

/// The body of `POST /v1/meetings`: what is accepted can be stored, read back, shown and shipped to a standby.
///
/// # Panics
/// This crate is wrong.
pub fn create(data: &[u8]) {
    let Some(spec) = accepted(data) else { return };
    let record = MeetingRecord { spec, ..record() };
    let values = Op::Meeting(Box::new(record.clone())).prepare().expect("what is accepted can be stored");
    assert_eq!(reread::<MeetingRecord>(&values.rows()[0]).as_ref(), Some(&record));
    assert!(shown(record.clone(), &[], &core()).is_ok());
    let stream = StreamId { term: Term(2), by: core().node, number: REPLICA };
    let entries = [Entry::Begin { stream: REPLICA, held: None }, Entry::Record(Box::new(record))];
    let pieces: Vec<Vec<u8>> = entries.iter().flat_map(Entry::pieces).collect();
    let taken = Receiver::default().handle(meeting(), &stream, 0, &pieces);
    assert_eq!(taken.expect("what is accepted can be shipped"), entries);
}

/// Queries and headers of the API: `status`, `limit`, `before`, `purge`, `format`, `since`; `traceparent`.
///
/// # Panics
/// This crate is wrong.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    queries(text);
    if let Ok(trace) = text.parse::<TraceContext>() {
        assert_eq!(trace.to_string().parse(), Ok(trace));
    }
}
