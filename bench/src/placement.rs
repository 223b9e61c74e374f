//! `bench placement`: what our choice of an edge costs against the best possible one, and against the nearest by distance.
//!
//! A world is a matrix of round trips. Each of its sites has an edge, and all edges learn their coordinates from noisy
//! samples of each other. Then meetings are placed: the relay is at one site, edges are at others, and
//! the placement code of the core ([`mesh::placement`]) asks some of them, whose answers are noisy and sometimes lost.
//! What it chose is compared by true round trip. The way to the core and stress weigh nothing here, so that nothing but
//! distance to the relay can be right or wrong.

mod choice;
mod tally;
mod truth;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::Table;
use geo::{matrix::RttMatrix, places};
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;

use self::{
    tally::{Regret, Tally},
    truth::World,
};

/// What to measure.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// Round trips: rows `source,target,ms`, or a table with a header of targets; absent: Azure's published ones.
    #[arg(long)]
    matrix: Option<PathBuf>,
    /// Where the sites are, `region,lat,lon`, for the choice by distance; absent: Azure's list and our own region ids.
    #[arg(long)]
    places: Option<PathBuf>,
    /// Meetings placed, 1 to 1,000,000.
    #[arg(long, default_value_t = 1000)]
    choices: u32,
    /// Up to this share is added to each round trip by queues, and thirty times that to one in fifty: 0 to 1.
    #[arg(long, default_value_t = 0.1)]
    noise: f64,
    /// Share of probes that are never answered, 0 to 0.9.
    #[arg(long, default_value_t = 0.05)]
    loss: f64,
    /// Everything follows from it: equal seeds give equal figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the figures there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// What everything follows from.
    pub seed: u64,
    /// Sites in the matrix.
    pub sites: usize,
    /// Meetings placed.
    pub choices: u32,
    /// Edges asked for each, in the mean.
    pub asked_mean: f64,
    /// How far the edges' coordinates are off, as a share of the round trip: the median over all pairs.
    pub coordinate_error: f64,
    /// By the core's own code.
    pub ours: Regret,
    /// By great-circle distance; `None` where no site's place is known.
    pub by_distance: Option<Regret>,
}

/// Measures, prints a table and writes the figures.
///
/// # Errors
/// An argument is out of its range, or a file cannot be read, understood or written.
pub fn run(args: &Args) -> Result<()> {
    let figures = measure(args)?;
    println!("{}", table(&figures));
    if figures.by_distance.is_none() {
        println!("by distance: unknown, since no two sites' places are known (--places)");
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&figures)?;
        std::fs::write(path, json).with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Figures> {
    ensure!((1..=1_000_000).contains(&args.choices), "--choices {}: 1 to 1000000", args.choices);
    ensure!((0.0..=1.0).contains(&args.noise), "--noise {}: 0 to 1", args.noise);
    ensure!((0.0..=0.9).contains(&args.loss), "--loss {}: 0 to 0.9", args.loss);
    let matrix = match &args.matrix {
        Some(path) => RttMatrix::parse(&read(path, "--matrix")?).with_context(|| path.display().to_string())?,
        None => RttMatrix::azure(),
    };
    let own = args.places.as_deref().map(|path| {
        let places = places::parse(&read(path, "--places")?);
        places.with_context(|| path.display().to_string())
    });
    ensure!(matrix.sites().len() >= 3, "a relay and two edges need 3 sites; the matrix has {}", matrix.sites().len());
    println!("{} sites, {} meetings, seed {}", matrix.sites().len(), args.choices, args.seed);
    let rng = StdRng::seed_from_u64(args.seed);
    let mut world = World::new(matrix, own.transpose()?, (args.noise, args.loss), rng);
    world.learn();
    Ok(place_all(&mut world, args))
}

fn read(path: &Path, flag: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{flag} {}", path.display()))
}

fn place_all(world: &mut World, args: &Args) -> Figures {
    let (mut ours, mut by_distance, mut asked) = (Tally::default(), Tally::default(), 0);
    for number in 0..args.choices {
        let Some(scene) = world.scene(number) else { continue };
        let choice = choice::ours(world, &scene);
        asked += choice.asked;
        ours.add(world.penalty(&scene, choice.edge));
        if let Some(edge) = choice::by_distance(world, &scene) {
            by_distance.add(world.penalty(&scene, Some(edge)));
        }
    }
    Figures {
        seed: args.seed,
        sites: world.len(),
        choices: ours.count() as u32,
        asked_mean: asked as f64 / ours.count().max(1) as f64,
        coordinate_error: world.coordinate_error(),
        ours: ours.regret().unwrap_or_default(),
        by_distance: by_distance.regret(),
    }
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new();
    table.set_header(["", "ours", "by distance", "goal"]);
    type Of = fn(&Regret) -> f64;
    let rows: [(&str, Of, &str); 5] = [
        ("wrong by more than 2 ms, %", |r| r.wrong_over_2ms * 100.0, "2"),
        ("penalty, mean, ms", |r| r.mean_penalty_ms, "1"),
        ("penalty where wrong, median, ms", |r| r.median_where_wrong_ms, ""),
        ("penalty, p99, ms", |r| r.p99_penalty_ms, ""),
        ("penalty, longest, ms", |r| r.max_penalty_ms, ""),
    ];
    for (name, of, goal) in rows {
        let distance = figures.by_distance.as_ref().map_or_else(|| "-".into(), |r| format!("{:.2}", of(r)));
        table.add_row([name.to_owned(), format!("{:.2}", of(&figures.ours)), distance, goal.to_owned()]);
    }
    table.add_row(["edges asked, mean", &format!("{:.1}", figures.asked_mean), "0", ""]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(flags: &[&str]) -> Result<Figures> {
        measure(&Args::try_parse_from([&["placement"][..], flags].concat())?)
    }

    #[test]
    fn the_edges_we_choose_are_as_near_as_promised_and_far_nearer_than_by_distance() {
        for seed in ["1", "2"] {
            let found = figures(&["--choices", "250", "--seed", seed]).unwrap();
            println!("{found:?}");
            let distance = found.by_distance.clone().unwrap();
            assert!(found.ours.wrong_over_2ms <= 0.02 && found.ours.mean_penalty_ms <= 1.0, "seed {seed}: {found:?}");
            assert!(distance.wrong_over_2ms >= 0.10 && distance.mean_penalty_ms >= 2.0, "seed {seed}: {found:?}");
            assert!(found.asked_mean <= 18.0 && found.choices == 250, "seed {seed}: {found:?}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_figures_and_others_others() {
        let run = |seed| figures(&["--choices", "20", "--seed", seed]).unwrap();
        assert_eq!(run("7"), run("7"));
        assert_ne!(run("7"), run("8"));
    }

    #[test]
    fn lost_probes_and_noise_make_it_worse() {
        let run = |loss, noise| figures(&["--choices", "60", "--loss", loss, "--noise", noise]).unwrap();
        let (clean, bad) = (run("0", "0"), run("0.8", "1"));
        assert!(clean.ours.mean_penalty_ms < bad.ours.mean_penalty_ms, "{clean:?} {bad:?}");
    }

    #[test]
    fn any_matrix_will_do_and_what_is_none_is_refused_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let list = file("list.csv", "source,target,ms\na,b,10\na,c,30\nb,c,35\nc,d,5\n");
        let own = figures(&["--matrix", &list, "--choices", "8", "--loss", "0", "--noise", "0"]).unwrap();
        assert_eq!((own.sites, &own.by_distance, own.ours.wrong_over_2ms), (4, &None, 0.0));
        let places = file("places.csv", "region,lat,lon\na,0,0\nb,0,60\nc,0,10\nd,0,11\n");
        let placed = figures(&["--matrix", &list, "--places", &places, "--choices", "8"]).unwrap();
        assert!(placed.by_distance.unwrap().wrong_over_2ms > 0.0, "a is nearer to c on the map alone");
        let refuse = |flags: &[&str]| format!("{:#}", figures(flags).unwrap_err());
        let two = file("two.csv", "a,b,10\n");
        assert!(refuse(&["--matrix", &two]).contains("need 3 sites; the matrix has 2"));
        assert!(refuse(&["--matrix", &file("bad.csv", "a,b,x\n")]).contains("bad.csv: matrix"));
        assert!(refuse(&["--matrix", "/nowhere"]).contains("--matrix /nowhere"));
        assert!(refuse(&["--places", &list]).contains("expected a header"));
        assert!(refuse(&["--loss", "1"]).contains("--loss 1: 0 to 0.9"));
    }
}
