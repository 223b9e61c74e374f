//! What has to be known of STUN messages (RFC 8489) beside the agent: to whom they are, and of what kind.

/// What a message begins with that is a request of a check.
const REQUEST: [u8; 2] = [0x00, 0x01];
/// The same for an answer that is no error.
const SUCCESS: [u8; 2] = [0x01, 0x01];
/// Length of what comes before the attributes.
const HEADER: usize = 20;
const USERNAME: u16 = 0x0006;
/// RFC 8445 section 16.1.
const USE_CANDIDATE: u16 = 0x0025;

/// To whom a request is: before the colon in its `USERNAME` (RFC 8445 section 7.2.2).
pub(super) fn ufrag(bytes: &[u8]) -> Option<&str> {
    let name = attribute(bytes, USERNAME).filter(|_| bytes.starts_with(&REQUEST))?;
    std::str::from_utf8(name).ok()?.split(':').next()
}

/// Whether it is a check by which the relay chooses a path.
pub(super) fn nominates(bytes: &[u8]) -> bool {
    bytes.starts_with(&REQUEST) && attribute(bytes, USE_CANDIDATE).is_some()
}

/// Whether it says that a check of ours has come through.
pub(super) fn is_success(bytes: &[u8]) -> bool {
    bytes.starts_with(&SUCCESS)
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes.get(HEADER..)?;
    loop {
        let (head, body) = rest.split_first_chunk::<4>()?;
        let (kind, len) = (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
        let value = body.get(..len)?;
        if kind == wanted {
            return Some(value);
        }
        rest = body.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_name_somebody_or_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            ufrag(&bytes);
            let mut request = vec![0, 1, 0, 0];
            request.extend(bytes);
            ufrag(&request);
            nominates(&request);
        }
    }

    #[test]
    fn a_request_names_its_addressee_and_may_nominate() {
        let mut request = vec![0, 1, 0, 20];
        request.extend([0x21, 0x12, 0xA4, 0x42]);
        request.extend([7; 12]);
        request.extend([0x00, 0x24, 0, 4, 1, 2, 3, 4]);
        request.extend([0x00, 0x06, 0, 9]);
        request.extend(b"ours:them\0\0\0");
        assert_eq!((ufrag(&request), nominates(&request)), (Some("ours"), false));
        request.extend([0x00, 0x25, 0, 0]);
        assert!(nominates(&request) && !is_success(&request));
        request[0] = 1;
        assert_eq!((ufrag(&request), nominates(&request), is_success(&request)), (None, false, true));
    }
}
