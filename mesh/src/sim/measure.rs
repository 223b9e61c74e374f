//! What a mesh is worth: how soon it notices, how often it errs, what it costs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EPOCH_MS, Load, World, percentile};
use crate::membership::Settings;

/// How long after a crash everyone must know of it to be counted at all.
const AFTERMATH: Duration = Duration::from_secs(60);
/// How long a region is cut off.
const PARTITION: Duration = Duration::from_secs(120);
/// How long a node stalls.
const STALL: Duration = Duration::from_secs(8);
/// Healing is given up after this.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to measure on.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes in the mesh, in ten regions.
    pub nodes: usize,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Virtual hours of steady running, one half idle and one half loaded.
    pub hours: f64,
    /// Crashes, goodbyes, joins and reports measured; at most so many partitions (3) and stalls (5).
    pub events: usize,
    /// Everything follows from it.
    pub seed: u64,
    /// SWIM's timing.
    pub settings: Settings,
}

/// Mean and 99th percentile, or 99th percentile and maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct First {
    /// Mean, in milliseconds.
    pub mean: f64,
    /// 99th percentile, in milliseconds.
    pub p99: f64,
}

/// Of all pairs of a crash and a node that had to learn of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Last {
    /// 99 of 100 nodes know by then, in milliseconds.
    pub p99: f64,
    /// All know by then; a minute where some never did.
    pub max: f64,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// From a crash until the first node holds the crashed one down.
    pub first_detection_ms: First,
    /// From a crash until a node holds the crashed one down, over all nodes.
    pub last_node_ms: Last,
    /// Healthy nodes held down by some node while nothing was broken but packets.
    pub false_downs: u64,
    /// Over how many node-hours.
    pub node_hours: f64,
    /// Renewals of nodes that were held down in error.
    pub rejoins_per_node_hour: f64,
    /// Sent by each node in a mesh without load: gossip as payload of UDP, with [`super::FRAMING`] for each packet.
    pub idle_bytes_per_s: f64,
    /// Sent by each node while every node's load changes every second.
    pub loaded_bytes_per_s: f64,
    /// Packets that were, in a mesh without load.
    pub idle_packets_per_s: f64,
    /// Packets that were, under load.
    pub loaded_packets_per_s: f64,
    /// Signatures that a node verifies, in a mesh without load: 40 to 100 µs each.
    pub idle_verified_per_s: f64,
    /// And under load.
    pub loaded_verified_per_s: f64,
    /// From a node's first packet until a node holds it alive, 99 of 100 nodes.
    pub join_ms_p99: f64,
    /// From a goodbye until a node knows it, 99 of 100 nodes.
    pub leave_ms_p99: f64,
    /// From a change of a node's meetings until a node knows it, 99 of 100 nodes.
    pub report_ms_p99: f64,
    /// From the end of a partition of 120 s until everyone sees everyone; the longest of several.
    pub heal_ms: f64,
    /// From the end of a node's stall of 8 s until everyone sees everyone; the longest of several.
    pub stall_heal_ms: f64,
    /// Healthy nodes that were held down because another one had stalled.
    pub stall_false_downs: u64,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Measures all of it; tells `progress` what comes next.
pub fn measure(plan: &Plan, mut progress: impl FnMut(&str)) -> Figures {
    let mut figures = Figures::default();
    progress("joining");
    let mut world = World::joined_with(plan.nodes, plan.loss, plan.seed, plan.settings.clone());
    progress("steady, idle");
    let idle = steady(&mut world, plan, Load::Idle);
    progress("steady, loaded");
    let loaded = steady(&mut world, plan, Load::Busy);
    figures.node_hours = plan.hours * plan.nodes as f64;
    figures.false_downs = idle.false_downs + loaded.false_downs;
    figures.rejoins_per_node_hour = (idle.rejoins + loaded.rejoins) as f64 / figures.node_hours;
    (figures.idle_bytes_per_s, figures.idle_packets_per_s) = (idle.bytes_per_s, idle.packets_per_s);
    (figures.loaded_bytes_per_s, figures.loaded_packets_per_s) = (loaded.bytes_per_s, loaded.packets_per_s);
    (figures.idle_verified_per_s, figures.loaded_verified_per_s) = (idle.verified_per_s, loaded.verified_per_s);
    world.set_load(Load::Idle);
    progress("reports");
    figures.report_ms_p99 = reports(&mut world, plan);
    progress("crashes and joins");
    crashes(&mut world, plan, &mut figures);
    progress("goodbyes");
    figures.leave_ms_p99 = goodbyes(&mut world, plan);
    progress("partitions");
    figures.heal_ms = partitions(&mut world, plan);
    progress("stalls");
    stalls(&mut world, plan, &mut figures);
    figures
}

struct Steady {
    false_downs: u64,
    rejoins: u64,
    bytes_per_s: f64,
    packets_per_s: f64,
    verified_per_s: f64,
}

fn steady(world: &mut World, plan: &Plan, load: Load) -> Steady {
    world.set_load(load);
    world.run_for(Duration::from_secs(20));
    world.forget();
    let (rejoins, verified) = (world.rejoins(), world.verified());
    let time = Duration::from_secs_f64(plan.hours * 1800.0);
    world.run_for(time);
    let per_node = |count: u64| (count as f64 / plan.nodes as f64 / time.as_secs_f64() * 10.0).round() / 10.0;
    Steady {
        false_downs: world.false_downs() as u64,
        rejoins: world.rejoins() - rejoins,
        bytes_per_s: per_node(world.bytes),
        packets_per_s: per_node(world.packets),
        verified_per_s: per_node(world.verified() - verified),
    }
}

/// The `n`-th of the victims: spread over the regions, never the first node.
fn victim(n: usize, nodes: usize) -> usize {
    1 + n * 7 % (nodes - 1)
}

fn reports(world: &mut World, plan: &Plan) -> f64 {
    let (nodes, mut all) = (plan.nodes, vec![]);
    for n in 0..plan.events {
        let (node, meetings) = (victim(n, nodes), 20 + n as u32);
        let start = world.now();
        world.publish(node, |report| report.meetings = meetings);
        let mut waiting: Vec<usize> = (0..nodes).filter(|i| *i != node).collect();
        while !waiting.is_empty() && world.now() - start < Duration::from_secs(15) {
            world.run_for(Duration::from_millis(100));
            let before = waiting.len();
            waiting.retain(|i| world.meetings(*i, node) != Some(meetings));
            all.extend(std::iter::repeat_n(world.now() - start, before - waiting.len()));
        }
        all.extend(waiting.iter().map(|_| AFTERMATH));
    }
    ms(percentile(&mut all, 0.99))
}

fn crashes(world: &mut World, plan: &Plan, figures: &mut Figures) {
    let (mut first, mut all, mut joins) = (vec![], vec![], vec![]);
    for n in 0..plan.events {
        let node = victim(n, plan.nodes);
        world.forget();
        let start = world.now();
        world.crash(node);
        world.run_for(Duration::from_secs(30));
        let told = world.told(node, true, start);
        let unaware = world.live().len() - told.len();
        first.extend(told.iter().min());
        all.extend(told);
        all.extend(std::iter::repeat_n(AFTERMATH, unaware));
        figures.false_downs += world.false_downs() as u64;
        joins.extend(join(world, node, 1 + n));
    }
    let mean = first.iter().sum::<Duration>() / first.len().max(1) as u32;
    figures.first_detection_ms = First { mean: ms(mean), p99: ms(percentile(&mut first, 0.99)) };
    figures.last_node_ms = Last { p99: ms(percentile(&mut all, 0.99)), max: ms(percentile(&mut all, 1.0)) };
    figures.join_ms_p99 = ms(percentile(&mut joins, 0.99));
}

/// Starts `node` again, at its old address, and says when each other node saw it.
fn join(world: &mut World, node: usize, life: usize) -> Vec<Duration> {
    let start = world.now();
    world.start(node, 0, EPOCH_MS + start.as_millis() as u64 + life as u64);
    world.announce(node, 0);
    world.run_for(Duration::from_secs(15));
    let mut told = world.told(node, false, start);
    let unaware = world.live().len() - 1 - told.len();
    told.extend(std::iter::repeat_n(AFTERMATH, unaware));
    told
}

fn goodbyes(world: &mut World, plan: &Plan) -> f64 {
    let (nodes, mut all) = (plan.nodes, vec![]);
    for n in 0..plan.events {
        let node = victim(n, nodes);
        world.forget();
        let start = world.now();
        world.with(node, |swim, now| swim.leave(now));
        world.crash(node);
        world.run_for(Duration::from_secs(15));
        let told = world.told(node, true, start);
        let unaware = world.live().len() - told.len();
        all.extend(told);
        all.extend(std::iter::repeat_n(AFTERMATH, unaware));
        join(world, node, 100 + n);
    }
    ms(percentile(&mut all, 0.99))
}

/// Cuts off one region, then half the regions, then one node.
fn partitions(world: &mut World, plan: &Plan) -> f64 {
    let nodes = plan.nodes;
    let sides: [Vec<usize>; 3] =
        [(0..nodes).filter(|i| i % 10 == 3).collect(), (0..nodes).filter(|i| i % 10 >= 5).collect(), vec![nodes / 2]];
    let healed = sides.iter().take(plan.events).map(|far| {
        world.cut(far);
        world.run_for(PARTITION);
        world.heal();
        let took = world.run_until(PATIENCE, World::everyone_sees_everyone).unwrap_or(PATIENCE);
        world.run_for(Duration::from_secs(30));
        took
    });
    ms(healed.max().unwrap_or_default())
}

fn stalls(world: &mut World, plan: &Plan, figures: &mut Figures) {
    for n in 0..plan.events.min(5) {
        let node = victim(n, plan.nodes);
        world.forget();
        world.stall(node, STALL);
        world.run_for(STALL);
        let took = world.run_until(PATIENCE, World::everyone_sees_everyone).unwrap_or(PATIENCE);
        world.run_for(Duration::from_secs(30));
        figures.stall_heal_ms = figures.stall_heal_ms.max(ms(took));
        figures.stall_false_downs += world.others_held_down(node) as u64;
    }
}
