//! What is wrong with a configuration: all of it, not only the first.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    path::Path,
};

use geo::map::RegionMap;

use super::{ConfigError, Source};

/// Everything that is wrong with a configuration, in the order in which it was found; at least one error.
#[derive(Debug)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// Ok if there are none.
    ///
    /// # Errors
    /// There are.
    pub fn of(errors: Vec<ConfigError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// Each.
    pub fn into_vec(self) -> Vec<ConfigError> {
        self.0
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The values alone: the program is to run on another machine.
    Values,
    /// Also what they name on this machine: files, folders and addresses.
    Machine,
}

/// Checks the values of a [`Source`], and keeps what is wrong with them.
#[derive(Debug)]
pub struct Checks<'a> {
    source: &'a Source,
    reach: Reach,
    errors: Vec<ConfigError>,
}

impl<'a> Checks<'a> {
    /// Nothing is checked yet.
    pub fn new(source: &'a Source, reach: Reach) -> Self {
        Self { source, reach, errors: vec![] }
    }

    /// How far this check goes.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// What was wrong.
    ///
    /// # Errors
    /// Something was.
    pub fn finish(self) -> Result<(), ConfigErrors> {
        ConfigErrors::of(self.errors)
    }

    /// What was wrong; nothing if all is well.
    pub fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }

    /// The value at `key` is wrong, for a reason that says what is allowed.
    pub fn refuse(&mut self, key: &str, reason: impl Display) {
        self.errors.push(self.source.refuse(key, reason));
    }

    /// The value of `result`; an error is one about the value at `key`.
    pub fn accept<T, E: Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.refuse(key, error)).ok()
    }

    /// The value at `key` is to be within `allowed`.
    pub fn range<N: PartialOrd + Display>(&mut self, key: &str, value: N, allowed: RangeInclusive<N>) {
        if !allowed.contains(&value) {
            self.refuse(key, format!("must be {} to {}", allowed.start(), allowed.end()));
        }
    }

    /// `holds` is to hold, which says of the value at `key` that it is `allowed`.
    pub fn ensure(&mut self, key: &str, holds: bool, allowed: &str) {
        if !holds {
            self.refuse(key, format!("must be {allowed}"));
        }
    }

    /// What the file at `path` says, which `key` names; none where files are not looked at, or if it cannot be read.
    pub fn read(&mut self, key: &str, path: &Path) -> Option<String> {
        if self.reach == Reach::Values {
            return None;
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"));
        self.accept(key, text)
    }

    /// The built-in regions, with those of the operator's file at `path` laid over them; as [`Checks::read`].
    pub fn regions(&mut self, key: &str, path: Option<&Path>) -> Option<RegionMap> {
        let Some(path) = path else { return Some(RegionMap::built_in()) };
        let text = self.read(key, path)?;
        self.accept(key, RegionMap::built_in().overlaid(&text))
    }
}
