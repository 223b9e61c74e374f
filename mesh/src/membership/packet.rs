//! What SWIM puts into one datagram: foca's layout, our codec.

use bytes::{Buf, BufMut, Bytes};
use foca::{Header, Member, Message};
use serde::{Serialize, de::DeserializeOwned};

use super::{items::Item, peer::Peer};
use crate::{
    codec::{self, DecodeError, EncodeError},
    identity::NodeId,
};

/// The longest packet, in bytes: a QUIC datagram at an MTU of 1200 has 1162, our type byte is one of them.
pub const MAX_PACKET: usize = 1150;

/// The shortest member in a packet; a bound on how many a packet can name.
const MIN_MEMBER: usize = 12;

/// The most members one packet can name.
pub(super) const MAX_MEMBERS: usize = MAX_PACKET / MIN_MEMBER;

/// Why a packet was not taken in. The sender is at fault each time, and the member list is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// More bytes than a packet may have.
    #[error("SWIM packet of {0} bytes, at most {MAX_PACKET} are allowed")]
    TooLong(usize),
    /// Not a packet, or a part of it is not what it should be.
    #[error("malformed SWIM packet: {0}")]
    Malformed(String),
    /// The packet names another sender than the certificate of the connection it came on.
    #[error("SWIM packet in the name of `{claimed}` from a peer certified as `{certified}`")]
    Impostor {
        /// Whom the packet names.
        claimed: NodeId,
        /// Whom the certificate names.
        certified: NodeId,
    },
    /// The sender has this node's own id: two nodes were given the same certificate.
    #[error("SWIM packet from a node with our own id")]
    Ourselves,
}

impl From<foca::Error> for PacketError {
    fn from(error: foca::Error) -> Self {
        match error {
            foca::Error::DataFromOurselves => Self::Ourselves,
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl From<DecodeError> for PacketError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// foca's door to [`crate::codec`].
#[derive(Debug, Clone, Copy)]
pub(super) struct PacketCodec;

#[derive(Debug, thiserror::Error)]
pub(super) enum CodecError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("the packet has no room left")]
    NoRoom,
}

impl foca::Codec<Peer> for PacketCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        put(header, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Peer>, CodecError> {
        take(buf)
    }

    fn encode_member(&mut self, member: &Member<Peer>, buf: impl BufMut) -> Result<(), CodecError> {
        put(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Peer>, CodecError> {
        take(buf)
    }
}

/// All or nothing: foca goes on with what is in the buffer when an item does not fit.
fn put<T: Serialize>(item: &T, mut buf: impl BufMut) -> Result<(), CodecError> {
    let mut bytes = Vec::with_capacity(128);
    codec::encode_body(item, &mut bytes)?;
    if bytes.len() > buf.remaining_mut() {
        return Err(CodecError::NoRoom);
    }
    buf.put_slice(&bytes);
    Ok(())
}

/// foca promises contiguous bytes, so the first chunk is all of them.
fn take<T: DeserializeOwned>(mut buf: impl Buf) -> Result<T, CodecError> {
    let (item, used) = codec::decode_body(buf.chunk())?;
    buf.advance(used);
    Ok(item)
}

/// The header of `packet` and the length it takes.
pub(super) fn header(packet: &[u8]) -> Result<(Header<Peer>, usize), PacketError> {
    if packet.len() > MAX_PACKET {
        return Err(PacketError::TooLong(packet.len()));
    }
    Ok(codec::decode_body(packet)?)
}

/// A packet, read to its end.
pub(super) struct Packet {
    pub(super) header: Header<Peer>,
    pub(super) members: Vec<Member<Peer>>,
    pub(super) items: Vec<Item>,
}

/// All of `packet`.
pub(super) fn read(packet: &[u8]) -> Result<Packet, PacketError> {
    let (header, length) = header(packet)?;
    let mut rest = packet.get(length..).unwrap_or_default();
    let mut members = vec![];
    if rest.len() >= 2 && !is_bare(&header.message) {
        for _ in 0..rest.get_u16() {
            let (member, used) = codec::decode_body(rest)?;
            rest.advance(used);
            members.push(member);
        }
    }
    let mut items = vec![];
    while !rest.is_empty() {
        let length = rest.try_get_u16().map_err(|_| PacketError::Malformed("length ends early".into()))?;
        let item = rest.get(..usize::from(length)).ok_or_else(|| PacketError::Malformed("item ends early".into()))?;
        items.push(Item::decode(item).map_err(|e| PacketError::Malformed(e.to_string()))?);
        rest.advance(item.len());
    }
    Ok(Packet { header, members, items })
}

/// foca puts no members behind these, not even their number.
fn is_bare(message: &Message<Peer>) -> bool {
    matches!(message, Message::Broadcast | Message::Announce | Message::TurnUndead)
}

/// Reads all of `packet` as a node would, without a node: how many nodes and items it names. For fuzzing.
///
/// # Errors
/// As [`super::Membership::handle_packet`]. Arbitrary bytes never panic.
pub fn inspect(packet: &[u8]) -> Result<usize, PacketError> {
    read(packet).map(|packet| packet.members.len() + packet.items.len())
}

/// A packet that tells foca nothing but `header`: what others say of third parties comes to it another way.
pub(super) fn bare(header: &Header<Peer>) -> Result<Vec<u8>, PacketError> {
    let mut bytes = Vec::with_capacity(256);
    codec::encode_body(header, &mut bytes).map_err(|e| PacketError::Malformed(e.to_string()))?;
    Ok(bytes)
}

/// A packet of our own making that any foca reads, telling of as many of `members` as fit.
///
/// The sender's incarnation is the one that foca has told last: an older one can neither refute nor overwrite.
pub(super) fn craft(
    src: (Peer, foca::Incarnation),
    dst: Peer,
    message: Message<Peer>,
    members: &[Member<Peer>],
) -> Option<Bytes> {
    let (src, src_incarnation) = src;
    let mut bytes = Vec::with_capacity(MAX_PACKET);
    let header = Header { src, src_incarnation, dst, message };
    codec::encode_body(&header, &mut bytes).ok()?;
    if is_bare(&header.message) {
        return Some(bytes.into());
    }
    let tally = bytes.len();
    bytes.put_u16(0);
    let mut count = 0u16;
    for member in members {
        let end = bytes.len();
        if codec::encode_body(member, &mut bytes).is_err() || bytes.len() > MAX_PACKET {
            bytes.truncate(end);
            break;
        }
        count += 1;
    }
    bytes[tally..tally + 2].copy_from_slice(&count.to_be_bytes());
    Some(bytes.into())
}
