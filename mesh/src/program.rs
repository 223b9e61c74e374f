//! What every program does around its work: its command line, its configuration, how it begins and how it ends.
//!
//! A program's [`Configuration`] says what its file holds and what is checked of it. [`start`] does the rest, as does [`check`] for
//! whoever only wants to know whether a file is right.

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::{
    config::{Checks, ConfigError, ConfigErrors, Reach, Source, sections::Common},
    http,
    identity::Role,
    node, signals,
};

/// What can be said to every program when it is started.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(about = None, long_about = None)]
pub struct Options {
    /// The configuration file. The example file of this program explains every key.
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// Overrides one setting: KEY=VALUE, such as mesh.listen=0.0.0.0:4433. May be given many times.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub sets: Vec<String>,
    /// Only checks the configuration and the certificate, and tries what a start would open. Nothing is made or kept open.
    #[arg(long)]
    pub check: bool,
    /// At SIGUSR1 every task that is started again when it breaks does so, one a second: a drill.
    #[arg(long, hide = true)]
    pub drill: bool,
}

/// The whole file of one program.
pub trait Configuration: DeserializeOwned {
    /// The program's name.
    const PROGRAM: &'static str;
    /// What its node is in the mesh.
    const ROLE: Role;
    /// What it runs, as other nodes are told.
    const SOFTWARE: &'static str;
    /// What environment variables begin with that override the file.
    const ENV_PREFIX: &'static str;
    /// The file that explains every key. It is valid but for what it names of a machine.
    const EXAMPLE: &'static str;

    /// What becomes of values that have to be understood first.
    type Parts;

    /// The sections that all programs have.
    fn common(&self) -> Common<'_>;

    /// Checks the values of its own sections. There are no parts if some are wrong, or in a file that is not looked at.
    fn check(&self, checks: &mut Checks<'_>) -> Option<Self::Parts>;

    /// Tries what a start would open beyond what is read. Nothing is made or kept open.
    fn try_opening(&self, checks: &mut Checks<'_>);

    /// What is allowed, but hardly meant.
    fn warnings(&self) -> Vec<String> {
        vec![]
    }
}

/// A configuration that is right, and what was made of it.
#[derive(Debug)]
pub struct Loaded<C: Configuration> {
    /// The file.
    pub config: C,
    /// What its own sections have become.
    pub parts: C::Parts,
    /// Settings of the mesh's node, certificates included.
    pub node: node::Settings,
    /// Limits of the HTTP server.
    pub limits: http::Limits,
}

/// What was found in a configuration.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// What may not be meant.
    pub warnings: Vec<String>,
}

impl Options {
    /// The file, the environment and the command line.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn source<C: Configuration>(&self) -> Result<Source, ConfigError> {
        Source::read(self.config.as_deref(), C::ENV_PREFIX, &self.sets)
    }
}

/// Runs `main` with the configuration that `options` name, or only checks that, as they say.
///
/// # Errors
/// The configuration is wrong ([`ConfigErrors`]), or `main` failed.
pub fn start<C, F>(options: &Options, main: impl FnOnce(Loaded<C>) -> F) -> Result<()>
where
    C: Configuration,
    F: Future<Output = Result<()>>,
{
    let runtime = runtime(Builder::new_multi_thread())?;
    let source = options.source::<C>()?;
    source.strays::<C>().iter().for_each(|stray| warn_early(stray));
    if options.check {
        let Report { errors, warnings } = check::<C>(&source, Reach::Machine);
        warnings.iter().for_each(|warning| warn_early(warning));
        return Ok(ConfigErrors::of(errors)?);
    }
    let loaded = load::<C>(&source)?;
    loaded.config.warnings().iter().for_each(|warning| warn_early(warning));
    // The process default, for HTTPS; the mesh names its provider itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        if options.drill {
            loaded.node.tasks.drill();
        }
        main(loaded).await
    })
}

/// A runtime. From now on SIGHUP does not end this process: see [`signals::heed_hangup`].
///
/// # Errors
/// The system has no threads or handlers for it.
pub fn runtime(mut builder: Builder) -> io::Result<Runtime> {
    let runtime = builder.enable_all().build()?;
    signals::heed_hangup(&runtime)?;
    Ok(runtime)
}

/// The configuration in `source`, ready for a start.
///
/// # Errors
/// All that is wrong with it.
pub fn load<C: Configuration>(source: &Source) -> Result<Loaded<C>, ConfigErrors> {
    let config: C = source.parse_whole(C::EXAMPLE)?;
    let mut checks = Checks::new(source, Reach::Machine);
    let parts = config.check(&mut checks);
    let (node, limits) = config.common().settings(&mut checks, C::ROLE, C::SOFTWARE);
    checks.finish()?;
    let (parts, node) = parts.zip(node).expect("a check that finds nothing wrong makes all parts");
    Ok(Loaded { config, parts, node, limits })
}

/// The values in `source`, checked, for a process that is no node and needs no certificate.
///
/// # Errors
/// All that is wrong with them.
pub fn values<C: Configuration>(source: &Source) -> Result<C, ConfigErrors> {
    let config: C = source.parse_whole(C::EXAMPLE)?;
    let mut checks = Checks::new(source, Reach::Machine);
    config.check(&mut checks);
    checks.finish().map(|()| config)
}

/// What is wrong with the configuration in `source`: all that keeps it from being one, or else all that is wrong with its values, and
/// as far as `reach` says with what they name.
pub fn check<C: Configuration>(source: &Source, reach: Reach) -> Report {
    let config: C = match source.parse_whole(C::EXAMPLE) {
        Ok(config) => config,
        Err(errors) => return Report { errors: errors.into_vec(), ..Report::default() },
    };
    let mut checks = Checks::new(source, reach);
    config.check(&mut checks);
    config.common().settings(&mut checks, C::ROLE, C::SOFTWARE);
    if reach == Reach::Machine {
        checks.try_common(&config.common());
        config.try_opening(&mut checks);
    }
    Report { errors: checks.into_errors(), warnings: config.warnings() }
}

/// How a program ends. An error is told in one line, each of its causes once, and of a configuration each error in a line of its own:
/// whatever `RUST_BACKTRACE` says, the reason is the last line of the log.
pub fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    match error.downcast_ref::<ConfigErrors>() {
        Some(errors) => errors.iter().for_each(|error| tell("error", &error.to_string())),
        None => tell("error", &in_a_line(&error)),
    }
    ExitCode::FAILURE
}

fn in_a_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Says `warning` on standard error, before there is a log.
pub fn warn_early(warning: &str) {
    tell("warning", warning);
}

/// Nobody may be there to read it.
fn tell(what: &str, text: &str) {
    let _ = writeln!(io::stderr(), "{what}: {text}");
}

#[cfg(test)]
mod tests;
