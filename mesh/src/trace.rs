//! W3C trace context (<https://www.w3.org/TR/trace-context/>), as it crosses the mesh.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The `traceparent` of the request that caused a piece of work: 25 bytes at most on our wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// 16 bytes, never zero.
    pub trace_id: u128,
    /// The parent span, 8 bytes, never zero.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

/// Why a text is not a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent (`00-<32 hex>-<16 hex>-<2 hex>`, ids not zero)")]
pub struct BadTraceParent;

impl TraceContext {
    /// A new trace with ids from `random`, which should be uniformly random bits.
    pub fn new(random: u128) -> Self {
        Self { trace_id: random | 1, span_id: (random >> 64) as u64 | 1, flags: 1 }
    }

    /// The same trace, seen from a child span `span_id`.
    pub fn child(self, span_id: u64) -> Self {
        Self { span_id: span_id | 1, ..self }
    }
}

impl FromStr for TraceContext {
    type Err = BadTraceParent;

    fn from_str(text: &str) -> Result<Self, BadTraceParent> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return Err(BadTraceParent) };
        let sized = version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let hex = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !sized || ![trace, span, flags].into_iter().all(hex) {
            return Err(BadTraceParent);
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).map_err(|_| BadTraceParent)?,
            span_id: u64::from_str_radix(span, 16).map_err(|_| BadTraceParent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| BadTraceParent)?,
        };
        if context.trace_id == 0 || context.span_id == 0 { Err(BadTraceParent) } else { Ok(context) }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specification_s_own_example_survives_a_round_trip() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(text.parse::<TraceContext>().map(|t| t.to_string()), Ok(text.to_owned()));
    }

    #[test]
    fn zero_ids_uppercase_and_wrong_lengths_are_refused() {
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(BadTraceParent), "{bad}");
        }
    }
}
