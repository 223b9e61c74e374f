#![allow(clippy::unwrap_used)]
//! What coordinates learn, from whom, and from whom not.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::identity::NodeId;

#[allow(clippy::disallowed_methods, reason = "any instant will do to count from")]
fn start() -> Instant {
    Instant::now()
}

fn at(x: f32, height: f32) -> Coordinate {
    Coordinate { position: [x, 0.0, 0.0], height, error: 0.1 }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A mesh that lives on a matrix of round trips: in each round every node measures to a few random others.
struct World {
    matrix: geo::matrix::RttMatrix,
    nodes: Vec<Vivaldi>,
    rng: rand::rngs::StdRng,
    now: Instant,
}

impl World {
    fn azure(seed: u64) -> Self {
        use rand::SeedableRng;
        let matrix = geo::matrix::RttMatrix::azure();
        let nodes = (0..matrix.sites().len()).map(|i| Vivaldi::new(Settings::default(), seed + i as u64)).collect();
        Self { matrix, nodes, rng: rand::rngs::StdRng::seed_from_u64(seed), now: start() }
    }

    /// One second: each node measures one other, with up to a tenth of queueing on top, and thirty times that at times.
    fn round(&mut self) {
        use rand::RngExt;
        self.now += Duration::from_secs(1);
        for i in 0..self.nodes.len() {
            let j = self.rng.random_range(0..self.nodes.len());
            let Some(ms) = self.matrix.rtt_ms(i, j) else { continue };
            let queue = self.rng.random_range(0.0..0.1) * if self.rng.random_bool(0.02) { 30.0 } else { 1.0 };
            let theirs = self.nodes[j].coordinate();
            let rtt = Duration::from_secs_f64(ms * (1.0 + queue) / 1000.0);
            self.nodes[i].handle_rtt(&id(&format!("n{j}")), rtt, &theirs, self.now).unwrap();
        }
    }

    /// How wrong the estimates are, as shares of the round trip, sorted.
    fn errors(&self) -> Vec<f64> {
        let at: Vec<Coordinate> = self.nodes.iter().map(Vivaldi::coordinate).collect();
        let pairs = (0..at.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
        let mut errors: Vec<f64> = pairs
            .filter_map(|(i, j)| self.matrix.rtt_ms(i, j).map(|ms| (at[i].rtt_ms(&at[j]) / ms - 1.0).abs()))
            .collect();
        errors.sort_by(f64::total_cmp);
        errors
    }
}

#[test]
fn coordinates_learn_azures_round_trips() {
    for seed in [1, 2, 3] {
        let mut world = World::azure(seed);
        (0..1200).for_each(|_| world.round());
        let errors = world.errors();
        let (median, p90) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
        println!("seed {seed}: median error {median:.3}, p90 {p90:.3}");
        assert!(median <= 0.10 && p90 <= 0.25, "seed {seed}: median {median:.3}, p90 {p90:.3}");
    }
}

#[test]
fn what_is_no_sample_changes_nothing_and_says_why() {
    let mut me = Vivaldi::new(Settings::default(), 1);
    let (now, before) = (start(), me.coordinate());
    let bad = Coordinate { position: [0.0, f32::NAN, 0.0], ..at(0.0, 1.0) };
    assert_eq!(me.handle_rtt(&id("a"), ms(10), &bad, now), Err(Refused::Coordinate));
    assert_eq!(
        me.handle_rtt(&id("a"), ms(10), &Coordinate { height: -3.0, ..at(0.0, 1.0) }, now),
        Err(Refused::Coordinate)
    );
    assert_eq!(me.handle_rtt(&id("a"), Duration::ZERO, &at(1.0, 1.0), now), Err(Refused::Rtt));
    assert_eq!(me.handle_rtt(&id("a"), Duration::from_secs(9), &at(1.0, 1.0), now), Err(Refused::Rtt));
    assert_eq!(me.coordinate(), before);
    assert_eq!(me.handle_rtt(&id("a"), ms(10), &at(1.0, 1.0), now), Ok(()));
    assert_eq!(me.handle_rtt(&id("a"), ms(10), &at(1.0, 1.0), now + ms(100)), Err(Refused::TooSoon));
}

#[test]
fn one_liar_among_honest_peers_does_not_carry_a_node_away() {
    let mut me = Vivaldi::new(Settings::default(), 7);
    let mut now = start();
    let honest: Vec<(NodeId, Coordinate)> = (0..8).map(|i| (id(&format!("n{i}")), at(i as f32 * 20.0, 2.0))).collect();
    let liar = Coordinate { error: 0.0, ..at(-4000.0, 0.0) };
    for _ in 0..200 {
        for (peer, theirs) in &honest {
            // This node is really at 70.
            let rtt = (f64::from(theirs.position[0]) - 70.0).abs() + 4.0;
            me.handle_rtt(peer, Duration::from_secs_f64(rtt / 1000.0), theirs, now).unwrap();
        }
        me.handle_rtt(&id("liar"), ms(5), &liar, now).unwrap();
        now += Duration::from_secs(5);
    }
    let here = me.coordinate();
    let off: f64 =
        honest.iter().map(|(_, at)| (here.rtt_ms(at) - (f64::from(at.position[0]) - 70.0).abs() - 4.0).abs()).sum();
    assert!(off / 8.0 < 60.0, "{here:?}: {:.1} ms off in the mean", off / 8.0);
}

#[test]
fn a_spike_now_and_then_is_filtered_out() {
    let mut me = Vivaldi::new(Settings::default(), 3);
    let mut now = start();
    for i in 0..300 {
        let spike = if i % 7 == 3 { 900 } else { 0 };
        me.handle_rtt(&id("a"), ms(40 + spike), &at(0.0, 5.0), now).unwrap();
        now += Duration::from_secs(1);
    }
    let estimate = me.coordinate().rtt_ms(&at(0.0, 5.0));
    assert!((estimate - 40.0).abs() < 2.0, "{estimate}");
    assert!(me.coordinate().error < 0.1);
}

proptest! {
    #[test]
    fn no_input_makes_a_coordinate_that_is_none(
        samples in prop::collection::vec((0u8..6, any::<u32>(), prop::array::uniform5(any::<f32>())), 0..60), seed: u64,
    ) {
        let mut me = Vivaldi::new(Settings::default(), seed);
        let mut now = start();
        for (peer, rtt, [x, y, z, height, error]) in samples {
            let theirs = Coordinate { position: [x, y, z], height, error };
            let _ = me.handle_rtt(&id(&format!("n{peer}")), Duration::from_micros(rtt.into()), &theirs, now);
            let near = Coordinate { position: [x % 4000.0, y % 4000.0, z % 4000.0], height: height.abs() % 4000.0, error: error.abs() % 1.0 };
            let _ = me.handle_rtt(&id(&format!("m{peer}")), Duration::from_micros(rtt.into()), &near, now);
            now += Duration::from_secs(1);
            prop_assert!(me.coordinate().is_sane(), "{:?}", me.coordinate());
        }
    }
}
