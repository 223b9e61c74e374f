//! `nearfield`: what an operator does from a terminal.
//!
//! Each command is a module of its own: its `Args` are its command line, its `run` does the work and writes what is for people
//! to `out`. An error ends the program with 1, a command line that is none with 2.

#![warn(clippy::print_stderr)]

pub mod certs;
pub mod check;
mod files;
pub mod verify_receipt;

use std::io::{self, Write};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The tool of those who run Nearfield's nodes.
///
/// Ends with 0 if all is well, with 1 if something is wrong or fails, and with 2 if it is called in a wrong way.
#[derive(Debug, Parser)]
#[command(name = "nearfield", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Certs(certs::Args),
    Check(check::Args),
    VerifyReceipt(verify_receipt::Args),
}

/// Does what the command line asks for.
///
/// # Errors
/// It fails, or something is wrong with what was to be looked at.
pub fn run(cli: &Cli, out: &mut dyn Write) -> Result<()> {
    let done = match &cli.command {
        Command::Certs(args) => certs::run(args),
        Command::Check(args) => check::run(args, out),
        Command::VerifyReceipt(args) => verify_receipt::run(args, out),
    };
    match done {
        // `nearfield … | head` has read what it wanted.
        Err(error) if is_closed_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_and_argument_has_its_help() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn a_reader_who_has_read_enough_is_no_error() {
        assert!(is_closed_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        assert!(!is_closed_pipe(&io::Error::from(io::ErrorKind::StorageFull).into()));
    }
}
