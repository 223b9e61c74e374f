//! What it lies about in gossip.
#![allow(clippy::disallowed_methods, reason = "a shell: it waits by the wall clock")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use foca::State;
use mesh::{
    clock::Micros,
    identity::{Identity, Role},
    wire::report::Report,
};
use tokio::time::sleep;

use super::{
    super::lies::{Liar, Named, Under},
    Evil, Ground, ROOMY, TELLING, Tried,
};

/// Between two tellings.
const AGAIN: Duration = Duration::from_millis(250);
/// Nodes that are not, told of.
const GHOSTS: u32 = 300;

/// What is told at once.
#[derive(Default)]
struct Lie {
    /// In whose name it is told once more.
    posing: Option<Named>,
    /// By SWIM.
    told: Vec<(Named, State)>,
    /// Whom a card is of, whether it takes leave, and who seems to have signed it.
    cards: Vec<(Named, bool, Under)>,
    /// Whatever else.
    items: Vec<Vec<u8>>,
}

impl Evil {
    pub(super) async fn lure(&self, tried: &mut Tried) {
        let api = format!("{}:8080", self.ip);
        self.node.publish(|report| {
            (report.stress_permille, report.capacity, report.meetings) = (0, ROOMY, 0);
            report.api = Some(api);
        });
        tried.tries += 1;
        sleep(TELLING).await;
    }

    /// Says in gossip that it has another role, where the meetings are.
    pub(super) async fn claim(&self, role: Role, ground: &Ground, tried: &mut Tried) {
        let Some(core) = self.member(&ground.cores[0]) else { return };
        let me = self.node.identity();
        let false_me = Identity { node: me.node.clone(), role, region: core.identity.region.clone() };
        self.tell(tried, |_, now| {
            let named = Named::new(&false_me, self.node.address(), now);
            Lie {
                posing: Some(named.clone()),
                cards: vec![(named.clone(), false, Under::Own)],
                told: vec![(named, State::Alive)],
                ..Lie::default()
            }
        })
        .await;
    }

    pub(super) async fn ghosts(&self, ground: &Ground, tried: &mut Tried) {
        let Some(core) = self.member(&ground.cores[0]) else { return };
        let mut next = 0;
        self.tell(tried, |_, now| {
            let ghosts = (0..8).map(|_| {
                next = next % GHOSTS + 1;
                let node = format!("ghost-{next}").parse().expect("it is a node id");
                let identity = Identity { node, role: Role::Edge, region: core.identity.region.clone() };
                let addr = SocketAddr::new([10, 99, (next >> 8) as u8, next as u8].into(), 4433);
                Named::new(&identity, addr, now)
            });
            let ghosts: Vec<Named> = ghosts.collect();
            let cards = ghosts.iter().take(3).map(|ghost| (ghost.clone(), false, Under::Own)).collect();
            Lie { cards, told: ghosts.into_iter().map(|ghost| (ghost, State::Alive)).collect(), ..Lie::default() }
        })
        .await;
    }

    /// Says that the primary drains, with its API here; and tells what others have signed before once more.
    pub(super) async fn report(&self, ground: &Ground, tried: &mut Tried) {
        let report = Report {
            node: ground.cores[0].clone(),
            at: Micros(Micros::from_system(SystemTime::now()).0 + 3_600_000_000),
            stress_permille: 0,
            meetings: 0,
            capacity: ROOMY - 1,
            draining: true,
            api: Some(format!("{}:8080", self.ip)),
            software: "evil".into(),
            rtts: vec![],
            extension: None,
        };
        self.tell(tried, |liar, _| {
            let forged = [Under::Theirs, Under::Nobodys].into_iter().filter_map(|under| liar.report(&report, under));
            let again = liar.overheard.iter().take(2).cloned();
            Lie { items: forged.chain(again).collect(), ..Lie::default() }
        })
        .await;
    }

    pub(super) async fn evict(&self, ground: &Ground, tried: &mut Tried) {
        let victim = &ground.edges[1];
        self.tell(tried, |liar, now| {
            let Some(victim) = liar.known.get(victim) else { return Lie::default() };
            let lives = [victim.life(), victim.life() + 1, u64::MAX - 1, u64::MAX];
            let gone = |life, under| (victim.in_life(life), true, under);
            Lie {
                told: lives.map(|life| (victim.in_life(life), State::Down)).to_vec(),
                cards: vec![
                    gone(victim.life(), Under::Own),
                    gone(victim.life(), Under::Theirs),
                    gone(now, Under::Nobodys),
                    gone(u64::MAX, Under::Theirs),
                ],
                ..Lie::default()
            }
        })
        .await;
    }

    /// Tells every node, again and again.
    async fn tell(&self, tried: &mut Tried, mut what: impl FnMut(&Liar, u64) -> Lie) {
        let liar = match Liar::new(&self.node, &self.credentials, self.ip).await {
            Ok(liar) => liar,
            Err(error) => return tracing::error!(%error, "no lie was told"),
        };
        let begun = Instant::now();
        while begun.elapsed() < TELLING {
            let lie = what(&liar, Micros::from_system(SystemTime::now()).as_millis());
            let Lie { posing, told, cards, mut items } = lie;
            items.extend(cards.iter().filter_map(|(named, gone, under)| liar.card(named, *gone, *under)));
            tried.tries += liar.tell(None, &told, &items);
            tried.tries += posing.map_or(0, |named| liar.tell(Some(&named), &told, &items));
            sleep(AGAIN).await;
        }
    }
}
