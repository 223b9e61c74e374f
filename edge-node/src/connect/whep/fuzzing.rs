//! What a WHEP endpoint may answer: see `crate::fuzzing`.

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue, LOCATION},
};

use super::{resolve, retry_after, servers, voices};
use crate::connect::{
    MAX_SERVERS,
    sdp::{Side, read},
};

/// Header lines, an empty line, a description: an answer if the first byte is even, else an offer. A token would go to
/// another origin under no header.
pub(crate) fn answer(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let end = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let headers: HeaderMap = data[..end].split(|byte| *byte == b'\n').filter_map(header).collect();
    let _ = retry_after(&headers, std::time::SystemTime::UNIX_EPOCH);
    assert!(servers(&headers).iter().filter(|server| server.parse().is_ok()).count() <= MAX_SERVERS);
    let _ = crate::connect::peer::fuzzing::fragment(data);
    let base = Url::parse("https://relay.example/whep/room").ok();
    if let (Some(base), Some(location)) = (base, headers.get(LOCATION)) {
        let _ = resolve(&base, location);
    }
    let side = if kind % 2 == 0 { Side::Answer } else { Side::Offer };
    let text = String::from_utf8_lossy(data.get(end + 2..).unwrap_or_default());
    if let Ok(description) = read(&text, side)
        && let Ok((ids, voices)) = voices(&description, side)
    {
        assert!(ids.len() == voices.len() && ids.len() == description.audio.len());
    }
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}
