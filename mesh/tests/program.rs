//! The program as such.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "programs/mod.rs"]
mod programs;

const PROGRAM: &str = env!("CARGO_BIN_EXE_geo-dns");

#[test]
fn the_version_is_its_own() {
    programs::says_its_version(PROGRAM, "geo-dns");
}

#[test]
fn a_hangup_in_the_middle_of_its_start_does_not_end_it() {
    programs::survives_an_early_hangup(PROGRAM, &[]);
}
