//! Keys that travel with a meeting, and what they prove.
//!
//! A meeting has a [`MeetingKey`], made with it and kept in its record: only a core has it that was given the meeting by one
//! that served it. Each edge that is to capture the meeting is given an [`EdgeKey`] made from it. A node that speaks for a
//! meeting sends a [`Proof`] along (HMAC-SHA-256, RFC 2104) over what it says, from whom and to whom: to another core by the
//! meeting's key, between core and edge by the edge's. So neither a node without part in the meeting, nor one that passes a message on,
//! can say anything in its name.
//!
//! A proof is no fence: it may be repeated by whoever was sent it. Terms and epochs order what is said of a meeting, and
//! renewals that pass through others are counted by the edge's own clock (`core-node::meeting`).

use std::fmt;

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    identity::NodeId,
    ids::{Epoch, MeetingId, Term},
};

/// Bytes of a key: 128 bits.
const KEY_BYTES: usize = 16;

/// What only the cores of a meeting know. `Debug` hides it. The default is no key: nothing is proven by it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MeetingKey([u8; KEY_BYTES]);

/// What only the cores of a meeting and one edge know. `Debug` hides it. The default is no key: nothing is proven by it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EdgeKey([u8; KEY_BYTES]);

/// That whoever made it has the key. The default proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proof([u8; 32]);

/// What is said in a meeting's name.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Statement<'a> {
    /// `core` serves the meeting in `term`.
    Serves {
        /// The meeting.
        meeting: MeetingId,
        /// The core.
        core: &'a NodeId,
        /// In which turn.
        term: Term,
        /// Who says so.
        from: &'a NodeId,
        /// Who is told.
        to: &'a NodeId,
    },
    /// The meeting is over, in `term` or before, and nothing is to be kept of it.
    Removed {
        /// The meeting.
        meeting: MeetingId,
        /// The last turn in which it was served, as far as who says so knows.
        term: Term,
        /// Who says so.
        from: &'a NodeId,
        /// Who is told.
        to: &'a NodeId,
    },
    /// The edge that has the key owns `epoch`, and wants its lease to be renewed.
    Renew {
        /// The meeting.
        meeting: MeetingId,
        /// The epoch.
        epoch: Epoch,
        /// The core that is to renew it.
        core: &'a NodeId,
        /// When it was sent, in milliseconds of the edge's own monotonic clock.
        sent_ms: u64,
    },
    /// The answer to that.
    Renewed {
        /// The meeting.
        meeting: MeetingId,
        /// The epoch.
        epoch: Epoch,
        /// The core that says so.
        core: &'a NodeId,
        /// Of what it answers.
        sent_ms: u64,
        /// For how long it is renewed.
        lease_ms: u32,
        /// Whether it is; else the edge does not own it any more.
        kept: bool,
    },
}

impl MeetingKey {
    /// One that nobody can guess.
    pub fn random() -> Self {
        let mut bytes = [0; KEY_BYTES];
        // The operating system's generator. Were there none, no key would be made, and nothing proven by it.
        let _ = SystemRandom::new().fill(&mut bytes);
        Self(bytes)
    }

    /// What `edge` is given of it.
    pub fn for_edge(&self, edge: &NodeId) -> EdgeKey {
        let mut key = EdgeKey::default();
        if *self != Self::default() {
            let made = hmac::sign(&of(&self.0), format!("edge {edge}").as_bytes());
            key.0.copy_from_slice(&made.as_ref()[..KEY_BYTES]);
        }
        key
    }

    /// Proves what is said to another core.
    pub fn prove(&self, said: &Statement<'_>) -> Proof {
        prove(&self.0, said)
    }

    /// Whether whoever said it has the key.
    pub fn proves(&self, said: &Statement<'_>, proof: &Proof) -> bool {
        proves(&self.0, said, proof)
    }
}

impl EdgeKey {
    /// Proves what is said between the edge and a core of the meeting.
    pub fn prove(&self, said: &Statement<'_>) -> Proof {
        prove(&self.0, said)
    }

    /// Whether whoever said it has the key.
    pub fn proves(&self, said: &Statement<'_>, proof: &Proof) -> bool {
        proves(&self.0, said, proof)
    }

    /// Whether `other` is this key. Between nodes it is shown only to whom it was made for.
    pub fn is(&self, other: &Self) -> bool {
        let said = Statement::Serves {
            meeting: MeetingId::nil(),
            core: &nobody(),
            term: Term(0),
            from: &nobody(),
            to: &nobody(),
        };
        self.proves(&said, &other.prove(&said))
    }
}

fn nobody() -> NodeId {
    "0".parse().expect("a letter or digit is a node id")
}

fn of(key: &[u8; KEY_BYTES]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn prove(key: &[u8; KEY_BYTES], said: &Statement<'_>) -> Proof {
    let mut proof = Proof::default();
    if *key != [0; KEY_BYTES] {
        proof.0.copy_from_slice(hmac::sign(&of(key), &bytes(said)).as_ref());
    }
    proof
}

fn proves(key: &[u8; KEY_BYTES], said: &Statement<'_>, proof: &Proof) -> bool {
    *key != [0; KEY_BYTES] && hmac::verify(&of(key), &bytes(said), &proof.0).is_ok()
}

fn bytes(said: &Statement<'_>) -> Vec<u8> {
    let mut bytes = vec![];
    codec::encode_body(said, &mut bytes).expect("ids and numbers are far below the limit of a message");
    bytes
}

impl fmt::Debug for MeetingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

impl fmt::Debug for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<proof>")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn a_proof_is_of_one_key_one_sender_one_receiver_and_one_statement() {
        let (key, other) = (MeetingKey::random(), MeetingKey::random());
        let (a, b, c) = (node("a"), node("b"), node("c"));
        let meeting = MeetingId::from_u128(7);
        let said = Statement::Serves { meeting, core: &a, term: Term(2), from: &a, to: &b };
        let proof = key.prove(&said);
        assert!(key.proves(&said, &proof));
        assert!(!other.proves(&said, &proof));
        let others = [
            Statement::Serves { meeting, core: &c, term: Term(2), from: &a, to: &b },
            Statement::Serves { meeting, core: &a, term: Term(3), from: &a, to: &b },
            Statement::Serves { meeting, core: &a, term: Term(2), from: &c, to: &b },
            Statement::Serves { meeting, core: &a, term: Term(2), from: &a, to: &c },
            Statement::Serves { meeting: MeetingId::from_u128(8), core: &a, term: Term(2), from: &a, to: &b },
        ];
        assert!(others.iter().all(|said| !key.proves(said, &proof)));
    }

    #[test]
    fn an_edge_s_key_is_always_the_same_and_no_other_edge_s() {
        let key = MeetingKey::random();
        assert!(key.for_edge(&node("a")).is(&key.for_edge(&node("a"))));
        assert!(!key.for_edge(&node("a")).is(&key.for_edge(&node("b"))));
        let said = Statement::Renew { meeting: MeetingId::nil(), epoch: Epoch(1), core: &node("c"), sent_ms: 5 };
        assert!(!key.proves(&said, &key.for_edge(&node("a")).prove(&said)), "nor the meeting's");
    }

    #[test]
    fn without_a_key_nothing_is_proven_and_no_key_is_shown() {
        let said = Statement::Renew { meeting: MeetingId::nil(), epoch: Epoch(1), core: &node("c"), sent_ms: 5 };
        let none = MeetingKey::default();
        assert!(!none.proves(&said, &none.prove(&said)));
        assert!(!none.for_edge(&node("a")).is(&none.for_edge(&node("a"))));
        assert!(!EdgeKey::default().proves(&said, &Proof::default()));
        let shown = format!("{:?} {:?}", MeetingKey::random(), MeetingKey::random().for_edge(&node("a")));
        assert_eq!(shown, "<key> <key>");
    }
}
