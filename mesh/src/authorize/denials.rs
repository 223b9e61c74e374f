//! What becomes known of refusals: a count of all, one line for each kind and sender.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::{Denied, Message};
use crate::identity::{Identity, NodeId};

/// Senders and kinds remembered; beyond that refusals are counted only.
const MAX_WARNED: usize = 1024;

/// The refusals of one node.
#[derive(Debug, Default)]
pub struct Denials {
    warned: Mutex<BTreeSet<(NodeId, Message)>>,
}

impl Denials {
    /// Counts a message of `from` that was not taken; logs the first of its kind from that node.
    pub fn note(&self, from: &Identity, denied: &Denied) {
        let Denied { message, why } = denied;
        metrics::counter!("nearfield_mesh_denied_total", "message" => message.as_str(), "reason" => why.label())
            .increment(1);
        if self.is_first(&from.node, *message) {
            tracing::warn!(node = %from.node, role = %from.role, region = %from.region, %denied, "a node may not do that");
        }
    }

    fn is_first(&self, node: &NodeId, message: Message) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.len() < MAX_WARNED && warned.insert((node.clone(), message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_sender_s_first_refusal_of_a_kind_is_told_and_what_is_remembered_is_bounded() {
        let (denials, evil): (_, NodeId) = (Denials::default(), "evil".parse().unwrap());
        assert!(denials.is_first(&evil, Message::Join));
        assert!(!denials.is_first(&evil, Message::Join));
        assert!(denials.is_first(&evil, Message::Release));
        for n in 0..2 * MAX_WARNED {
            denials.is_first(&format!("evil-{n}").parse().unwrap(), Message::Join);
        }
        assert_eq!(denials.warned.lock().unwrap().len(), MAX_WARNED);
    }
}
