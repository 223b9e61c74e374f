//! `nearfield`: see the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    mesh::program::exit(cli::run(&cli::Cli::parse(), &mut std::io::stdout().lock()))
}
