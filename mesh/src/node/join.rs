//! Feeding seeds to the membership.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{Shared, gossip::Input, lock};
use crate::seeds::{Found, Seeds};

/// How often seeds are looked up while no member is known.
const ALONE: Duration = Duration::from_secs(2);

/// A whole look-up may take this long.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(20);

/// Looks seeds up and announces to those that are no members yet, until the node stops.
pub(super) async fn run(shared: Arc<Shared>, seeds: Seeds) {
    if seeds.is_empty() {
        return;
    }
    let mut complained = false;
    let work = async {
        loop {
            let found = timeout(LOOKUP_DEADLINE, seeds.resolve()).await.ok();
            if let Some(found) = &found {
                complain(found, &mut complained);
                announce(&shared, found).await;
            }
            wait(&shared, found.map_or(ALONE, |found| found.refresh)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = shared.stop.cancelled() => {}
    }
}

async fn announce(shared: &Shared, found: &Found) {
    let known: Vec<_> = shared.members.borrow().iter().map(|member| member.addr).collect();
    for &addr in &found.addresses {
        let own = addr == shared.advertise || lock(&shared.own_addresses).contains(&addr);
        if !own && !known.contains(&addr) {
            // The gossip task is gone only when the node is.
            let _ = shared.gossip.send(Input::Announce(addr)).await;
        }
    }
}

/// Until the next look-up: `refresh`, but soon while there are no members.
async fn wait(shared: &Shared, refresh: Duration) {
    let mut members = shared.members.clone();
    sleep(ALONE.mul_f64(rand::random_range(0.75..1.25))).await;
    if !members.borrow().is_empty() {
        let rest = refresh.saturating_sub(ALONE);
        let _alone_again = timeout(rest, members.wait_for(|members| members.is_empty())).await;
    }
}

/// A seed that cannot be found is worth waking someone once, not every 2 s.
fn complain(found: &Found, complained: &mut bool) {
    for problem in &found.problems {
        if found.addresses.is_empty() && !*complained {
            warn!(problem, "seed not found; trying on");
        } else {
            debug!(problem, "seed not found");
        }
    }
    *complained = found.addresses.is_empty() && !found.problems.is_empty();
}
