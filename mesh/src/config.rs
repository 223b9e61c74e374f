//! Configuration of every program: a TOML file, then the environment, then `--set`, later ones winning.
//!
//! Each error names where the value came from, its key, the value, and what is allowed there. The
//! sections that all programs share are in [`sections`].

mod checks;
mod preflight;
pub mod sections;
mod stray;
mod whole;

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    io,
    path::Path,
};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use self::checks::{Checks, ConfigErrors, Reach};

/// What was read, before it takes a type; kept to say where a value came from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    table: Table,
    /// The file, or what stands for it in messages.
    file: Option<String>,
    /// Where each key that was not the file's came from.
    origins: BTreeMap<String, String>,
    /// What this program's variables begin with.
    prefix: String,
    /// Variables that look like settings and are none.
    stray: BTreeMap<String, String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, or not readable.
    #[error("{file}: cannot be read: {source}")]
    Read {
        /// Which.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{file}: not valid TOML: {message}")]
    Syntax {
        /// Which.
        file: String,
        /// Where and what.
        message: String,
    },
    /// A `--set` without a key or a value.
    #[error("--set {0}: expected key=value, such as mesh.listen=0.0.0.0:7400")]
    Set(String),
    /// A value that is not allowed, a key that is not known, or one that is missing.
    #[error("{origin}: {}{key}{}: {reason}", if key.is_empty() { "the top level" } else { "" }, Shown(value))]
    Invalid {
        /// The file, the environment variable or the flag.
        origin: String,
        /// The key, with dots.
        key: String,
        /// The value; hidden where it may be a secret, `None` where there is none.
        value: Option<String>,
        /// What is wrong, and what is allowed.
        reason: String,
    },
}

struct Shown<'a>(&'a Option<String>);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| write!(f, " = {value}"))
    }
}

impl Source {
    /// Reads `file`, the environment and `sets`, and lays them over each other.
    ///
    /// A variable `<env_prefix>__MESH__LISTEN` and a set `mesh.listen=VALUE` both mean the key `mesh.listen`.
    /// Their values are read as TOML, and where they are none, as plain text: `["a:1", "b:1"]`, `20`, `true`,
    /// `eu-central`.
    ///
    /// # Errors
    /// The file is unreadable or not TOML, or a set or variable does not fit into it.
    pub fn read(file: Option<&Path>, env_prefix: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Self::default().overlaid(env_prefix, sets) };
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::of_text(&name, &text, env_prefix, sets),
            Err(source) => Err(ConfigError::Read { file: name, source }),
        }
    }

    /// The same with the text of a file that is called `name`.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn of_text(name: &str, text: &str, env_prefix: &str, sets: &[String]) -> Result<Self, ConfigError> {
        let mut source = Self::default();
        source.file(name, text)?;
        source.overlaid(env_prefix, sets)
    }

    fn overlaid(mut self, env_prefix: &str, sets: &[String]) -> Result<Self, ConfigError> {
        // In order of name: which of two overlapping variables wins must not depend on the environment's order.
        let variables: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect();
        self.variables(env_prefix, &variables)?;
        for set in sets {
            self.set(set)?;
        }
        Ok(self)
    }

    fn file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        self.file = Some(name.into());
        self.table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::Syntax { file: name.into(), message: without_secrets(&e) })?;
        Ok(())
    }

    fn variables(&mut self, prefix: &str, variables: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        (self.prefix, self.stray) = (prefix.into(), stray::stray(prefix, variables));
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("__")) else { continue };
            let key = rest.to_ascii_lowercase().replace("__", ".");
            self.insert(&key, value, &format!("environment variable {name}"))?;
        }
        Ok(())
    }

    fn set(&mut self, set: &str) -> Result<(), ConfigError> {
        match set.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => self.insert(key.trim(), value.trim(), "--set"),
            _ => Err(ConfigError::Set(set.into())),
        }
    }

    fn insert(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let (path, last) = key.rsplit_once('.').map_or((None, key), |(path, last)| (Some(path), last));
        let mut table = &mut self.table;
        for part in path.iter().flat_map(|path| path.split('.')) {
            let entry = table.entry(part).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(inner) = entry else {
                let reason = format!("`{part}` is a value, so nothing can be set under it");
                return Err(ConfigError::Invalid { origin: origin.into(), key: key.into(), value: None, reason });
            };
            table = inner;
        }
        table.insert(last.into(), value(text));
        self.origins.insert(key.into(), origin.into());
        Ok(())
    }

    /// The names of the sections, and of keys outside any.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// What was read, as a `T`; [`Source::parse_whole`] tells more than the first error.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.try_parse().map_err(|(key, message)| self.refuse(&key, message))
    }

    /// What was read, as a `T`; else the key of the first value that is wrong, and why.
    fn try_parse<T: DeserializeOwned>(&self) -> Result<T, (String, String)> {
        serde_path_to_error::deserialize(Value::Table(self.table.clone())).map_err(|e| {
            let path = e.path().to_string();
            let message = &for_people(e.inner().message());
            // It repeats the value that it found.
            let repeats = is_secret(&path) && message.starts_with("invalid");
            let expected = message.rfind("expected ").filter(|_| repeats).map(|at| &message[at..]);
            (if path == "." { String::new() } else { path.clone() }, expected.unwrap_or(message).to_owned())
        })
    }

    /// An error about the value at `key`: what a caller's own check found.
    pub fn refuse(&self, key: &str, reason: impl Display) -> ConfigError {
        ConfigError::Invalid {
            origin: self.origin(key),
            key: key.into(),
            value: self.shown(key),
            reason: reason.to_string(),
        }
    }

    /// Where the value at `key`, or the nearest table around it, came from.
    fn origin(&self, key: &str) -> String {
        let mut prefix = key;
        loop {
            if let Some(origin) = self.origins.get(prefix) {
                return origin.clone();
            }
            match prefix.rfind(['.', '[']) {
                Some(at) => prefix = &prefix[..at],
                None => return self.file.clone().unwrap_or_else(|| "configuration (no file given)".into()),
            }
        }
    }

    fn shown(&self, key: &str) -> Option<String> {
        let mut at = None;
        let mut table = Some(&self.table);
        for part in key.split('.') {
            let (name, index) = part
                .split_once('[')
                .map_or((part, None), |(name, rest)| (name, rest.trim_end_matches(']').parse::<usize>().ok()));
            at = table?.get(name);
            if let Some(index) = index {
                at = at.and_then(Value::as_array).and_then(|array| array.get(index));
            }
            table = at.and_then(Value::as_table);
        }
        match at {
            Some(Value::Table(_)) | None => None,
            Some(_) if is_secret(key) => Some("<hidden>".into()),
            Some(value) => Some(value.to_string()),
        }
    }
}

/// A parser's message without the names of Rust's types.
fn for_people(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once("expected ") else { return message.to_owned() };
    let plain = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 0 on",
        "a sequence" => "a list",
        "path string" => "a path",
        "socket address" => "an address with its port, such as 127.0.0.1:8080",
        one if one.starts_with("struct ") => "a section",
        other => other,
    };
    format!("{found}expected {plain}")
}

/// Words in the names of keys whose values are secret.
const SECRETS: [&str; 4] = ["secret", "token", "password", "api_key"];

/// A value that must not be repeated in an error.
fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    last == "credential" || SECRETS.iter().any(|word| last.contains(word))
}

/// What a parser says; it shows the line that is wrong, unless there may be a secret in it.
fn without_secrets(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let shown = text.trim_end();
    if !SECRETS.iter().chain(&["credential"]).any(|word| shown.contains(word)) {
        return shown.to_owned();
    }
    format!("{}: {}", shown.lines().next().unwrap_or_default(), error.message())
}

/// `text` as a TOML value; plain text where it is none. Dates are text too: no setting is one.
fn value(text: &str) -> Value {
    match format!("value = {text}").parse::<Table>() {
        Ok(mut table) if table.len() == 1 => match table.remove("value") {
            Some(Value::Datetime(_)) | None => Value::String(text.into()),
            Some(value) => value,
        },
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests;
