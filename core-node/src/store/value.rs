//! How values are written, and read whatever the disk holds.
//!
//! | byte | |
//! |---|---|
//! | 0 | [`PLAIN`] or [`PACKED`] |
//! | 1-4 | CRC-32 of the rest, big-endian |
//! | 5- | JSON, or JSON packed by deflate (RFC 1951) |
//!
//! A value is read back before it is written, so that nothing is kept that could not be read, or shipped to a standby. Values of
//! older stores are bare JSON.

use mesh::codec;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, error::Category};

use super::StoreError;

/// How deep caller's data may be nested: far below what JSON's reader takes (128), with room for what is put around it.
pub const MAX_DEPTH: usize = 16;

/// The longest value before it is packed, in bytes: a placement that weighs some thousands of edges.
pub const MAX_VALUE: usize = (2 << 20) - 1024;

/// First bytes; none that JSON begins with.
const PACKED: u8 = 1;
const PLAIN: u8 = 2;
/// Shorter JSON stays as it is.
const MIN_PACKED: usize = 256;
/// Of 10: beyond it little is gained.
const LEVEL: u8 = 3;

/// What [`to_json`] has written.
pub(crate) fn json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let bad = |why: &str| StoreError::Record { what, why: why.into() };
    let read = match bytes.split_first_chunk::<5>() {
        Some(([kind @ (PACKED | PLAIN), sum @ ..], rest)) => {
            if crc32fast::hash(rest).to_be_bytes() != *sum {
                return Err(bad("its checksum is wrong"));
            }
            match *kind {
                PLAIN => serde_json::from_slice(rest),
                _ => {
                    let text = miniz_oxide::inflate::decompress_to_vec_with_limit(rest, MAX_VALUE);
                    serde_json::from_slice(&text.map_err(|_| bad("it cannot be unpacked"))?)
                }
            }
        }
        _ => serde_json::from_slice(bytes),
    };
    read.map_err(|e| bad(&place_of(&e)))
}

/// What is wrong, without what was read: that may be words, a name or a secret.
fn place_of(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        Category::Data => "another kind of value than expected",
        Category::Eof => "it ends early",
        Category::Io | Category::Syntax => "malformed, or nested too deep",
    };
    format!("{kind} at byte {}", error.column())
}

/// JSON that [`json`] reads.
pub(crate) fn to_json<T: Serialize + DeserializeOwned>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    let bad = |why: String| StoreError::Record { what, why };
    let text = serde_json::to_vec(value).map_err(|e| bad(place_of(&e)))?;
    if text.len() > MAX_VALUE {
        return Err(bad(format!("{} bytes, at most {MAX_VALUE} are allowed", text.len())));
    }
    serde_json::from_slice::<T>(&text).map_err(|e| bad(format!("it could not be read back: {}", place_of(&e))))?;
    Ok(pack(text))
}

/// A text that [`text`] reads.
pub(super) fn to_text(what: &'static str, text: &str) -> Result<Vec<u8>, StoreError> {
    to_json(what, &text.to_owned())
}

fn pack(text: Vec<u8>) -> Vec<u8> {
    let packed = (text.len() >= MIN_PACKED).then(|| miniz_oxide::deflate::compress_to_vec(&text, LEVEL));
    let (kind, rest) = match packed.filter(|packed| packed.len() < text.len()) {
        Some(packed) => (PACKED, packed),
        None => (PLAIN, text),
    };
    [&[kind], crc32fast::hash(&rest).to_be_bytes().as_slice(), &rest].concat()
}

/// Whether `value` is nested at most [`MAX_DEPTH`] deep.
pub(super) fn check_depth(what: &'static str, value: &Value) -> Result<(), StoreError> {
    if is_within(value, MAX_DEPTH) {
        return Ok(());
    }
    Err(StoreError::Record { what, why: format!("nested more than {MAX_DEPTH} deep") })
}

/// Whether lists and objects are nested at most `levels` deep.
pub(crate) fn is_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_within(item, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|item| is_within(item, levels - 1)),
        _ => true,
    }
}

pub(super) fn coded<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    codec::decode(bytes).map_err(|e| StoreError::Record { what, why: e.to_string() })
}

pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    codec::encode(value).map_err(|e| StoreError::Record { what, why: e.to_string() })
}
