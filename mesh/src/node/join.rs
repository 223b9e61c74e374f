//! Feeding seeds to the membership.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Member, Shared, dial,
    gossip::Input,
    lock,
    outside::{self, Outside},
};
use crate::{
    seeds::{Found, Seeds},
    tasks::once,
};

/// How often seeds are looked up while no member is known.
const ALONE: Duration = Duration::from_secs(2);

/// Looks seeds up and announces to those that are no members yet, until the node stops.
pub(super) async fn run(shared: Arc<Shared>, seeds: Arc<Seeds>) {
    if seeds.is_empty() {
        return;
    }
    let mut outside = Outside::new(Instant::now());
    let work = async {
        loop {
            let found = seeds.resolve_each(|addr| announce(&shared, addr)).await;
            found.problems.iter().for_each(|(seed, why)| debug!(seed, why, "seed not found"));
            tell(&shared, &mut outside, &found);
            wait(shared.members.clone(), found.refresh, &mut outside).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = shared.stop.cancelled() => {}
    }
}

/// A seed is greeted as soon as it is found: the others may take long. Where the queue is full, the next look-up does it.
fn announce(shared: &Arc<Shared>, addr: SocketAddr) {
    let is_own = lock(&shared.own_addresses).contains(&addr);
    let is_known = shared.members.borrow().iter().any(|member| member.addr == addr);
    if is_own || is_known {
        return;
    }
    if addr == shared.advertise {
        // Most likely this node itself; if not, nobody else will find out.
        let shared = shared.clone();
        once("dial", async move {
            let outcome = dial::connect(&shared, addr, None).await;
            lock(&shared.dials).note(addr, outside::told(&outcome));
        });
        return;
    }
    let _ = shared.gossip.try_send(Input::Announce(addr));
}

/// A node that is alone says so, and why.
fn tell(shared: &Shared, outside: &mut Outside, found: &Found) {
    let now = Instant::now();
    if !shared.members.borrow().is_empty() {
        lock(&shared.dials).clear();
        inside(outside, now);
    } else if let Some(told) = outside.handle_outside(found, &lock(&shared.dials), now) {
        warn!("outside of the mesh, {told}");
    }
}

fn inside(outside: &mut Outside, now: Instant) {
    if let Some(lasted) = outside.handle_inside(now) {
        info!(seconds = lasted.as_secs(), "in the mesh again");
    }
}

/// Until the next look-up: `refresh`, but soon while there are no members. Until the last member is gone it is inside.
async fn wait(mut members: watch::Receiver<Arc<Vec<Member>>>, refresh: Duration, outside: &mut Outside) {
    sleep(ALONE.mul_f64(rand::random_range(0.75..1.25))).await;
    if !members.borrow().is_empty() {
        let rest = refresh.saturating_sub(ALONE);
        let _alone_again = timeout(rest, members.wait_for(|members| members.is_empty())).await;
        inside(outside, tokio::time::Instant::now().into_std());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::identity::{Identity, Role};

    #[tokio::test(start_paused = true)]
    async fn a_node_is_outside_from_when_the_last_other_one_left_and_not_from_the_last_look_up() {
        let now = || tokio::time::Instant::now().into_std();
        let identity = Identity { node: "b".parse().unwrap(), role: Role::Edge, region: "eu-central".parse().unwrap() };
        let addr = "192.0.2.1:7".parse().unwrap();
        let member = Member { identity, addr, report: None, heard: None };
        let (change, members) = watch::channel(Arc::new(vec![member]));
        let mut outside = Outside::new(now());
        let left = async {
            sleep(Duration::from_secs(17)).await;
            change.send_replace(Arc::default());
        };
        tokio::join!(wait(members, Duration::from_secs(30), &mut outside), left);
        let found = Found { addresses: Default::default(), refresh: Duration::ZERO, problems: Default::default() };
        let told = |outside: &mut Outside| outside.handle_outside(&found, &outside::Dials::default(), now());
        assert_eq!(told(&mut outside), None, "it left just now");
        sleep(Duration::from_secs(15)).await;
        assert_eq!(told(&mut outside).as_deref(), Some("no other node for 15 s: no seed is named anywhere"));
    }
}
