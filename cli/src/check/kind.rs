//! Which program a configuration file is for.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    path::Path,
};

use mesh::{
    config::{ConfigError, Reach, Source},
    program::{self, Configuration, Report},
};

/// A program that has a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Answers DNS.
    GeoDns,
    /// Makes words.
    CoreNode,
    /// Joins meetings.
    EdgeNode,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Kind {
    const ALL: [Self; 3] = [Self::GeoDns, Self::CoreNode, Self::EdgeNode];

    fn program(self) -> &'static str {
        match self {
            Self::GeoDns => mesh::geo_dns::Config::PROGRAM,
            Self::CoreNode => core_node::config::Config::PROGRAM,
            Self::EdgeNode => edge_node::config::Config::PROGRAM,
        }
    }

    /// The word by which its files are called.
    fn word(self) -> &'static str {
        match self {
            Self::GeoDns => "dns",
            Self::CoreNode => "core",
            Self::EdgeNode => "edge",
        }
    }

    /// The sections that its file may have; its example has them all.
    fn sections(self) -> BTreeSet<String> {
        let example = match self {
            Self::GeoDns => mesh::geo_dns::Config::EXAMPLE,
            Self::CoreNode => core_node::config::Config::EXAMPLE,
            Self::EdgeNode => edge_node::config::Config::EXAMPLE,
        };
        sections("example", example).unwrap_or_default()
    }

    /// Those that no other program's file has.
    fn own_sections(self) -> BTreeSet<String> {
        let others: BTreeSet<_> = Self::ALL.into_iter().filter(|kind| *kind != self).flat_map(Self::sections).collect();
        self.sections().difference(&others).cloned().collect()
    }

    /// What the program says of `text`, a file called `name`.
    pub(super) fn check(self, name: &str, text: &str, reach: Reach) -> Report {
        match self {
            Self::GeoDns => checked::<mesh::geo_dns::Config>(name, text, reach),
            Self::CoreNode => checked::<core_node::config::Config>(name, text, reach),
            Self::EdgeNode => checked::<edge_node::config::Config>(name, text, reach),
        }
    }
}

fn checked<C: Configuration>(name: &str, text: &str, reach: Reach) -> Report {
    match Source::of_text(name, text, C::ENV_PREFIX, &[]) {
        Ok(source) => {
            let mut report = program::check::<C>(&source, reach);
            report.warnings.extend(source.strays::<C>());
            report
        }
        Err(error) => Report { errors: vec![error], ..Report::default() },
    }
}

/// No program's variables begin so.
const NO_PREFIX: &str = "NEARFIELD";

/// The sections of `text`, a file called `name`.
///
/// # Errors
/// It is not TOML.
pub(super) fn sections(name: &str, text: &str) -> Result<BTreeSet<String>, ConfigError> {
    let source = Source::of_text(name, text, NO_PREFIX, &[])?;
    Ok(source.sections().map(str::to_owned).collect())
}

/// The program that the file at `path` is for: the one to which alone some of its `sections` belong, else the one after which the
/// file is called.
///
/// # Errors
/// Neither tells, and how to say it.
pub(super) fn of(path: &Path, sections: &BTreeSet<String>) -> Result<Kind, String> {
    let by_section = |kind: &Kind| !kind.own_sections().is_disjoint(sections);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let by_name = |kind: &Kind| name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == kind.word());
    let only = |among: Vec<Kind>| if let [kind] = among[..] { Some(kind) } else { None };
    let told: Vec<Kind> = Kind::ALL.into_iter().filter(by_section).collect();
    let candidates = if told.is_empty() { Kind::ALL.to_vec() } else { told.clone() };
    let named: Vec<Kind> = candidates.into_iter().filter(by_name).collect();
    only(told).or_else(|| only(named)).ok_or_else(|| unknown(sections))
}

fn unknown(sections: &BTreeSet<String>) -> String {
    let of = |kind: Kind| {
        let own: Vec<String> = kind.own_sections().iter().map(|section| format!("[{section}]")).collect();
        format!("{kind} has {}", own.join(", "))
    };
    let has: Vec<String> = sections.iter().map(|section| format!("[{section}]")).collect();
    format!(
        "neither its sections ({}) nor its name tell which program it is for: {}; or say --program",
        has.join(", "),
        Kind::ALL.map(of).join("; "),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn found(name: &str, text: &str) -> Option<Kind> {
        of(name.as_ref(), &sections(name, text).unwrap()).ok()
    }

    #[test]
    fn the_examples_are_told_apart_whatever_they_are_called() {
        for (kind, example) in Kind::ALL.into_iter().zip([
            mesh::geo_dns::Config::EXAMPLE,
            core_node::config::Config::EXAMPLE,
            edge_node::config::Config::EXAMPLE,
        ]) {
            assert_eq!(found("/etc/nearfield/node.toml", example), Some(kind));
            assert!(!kind.own_sections().is_empty());
        }
    }

    #[test]
    fn a_file_of_common_sections_goes_by_its_name() {
        for (name, kind) in [
            ("edge-eu-central-1.toml", Kind::EdgeNode),
            ("/x/core.toml", Kind::CoreNode),
            ("Geo-DNS_2.toml", Kind::GeoDns),
        ] {
            assert_eq!(found(name, "[node]\nid = 'x'"), Some(kind));
        }
        for name in ["node.toml", "knowledge.toml", "core-and-edge.toml", ""] {
            let error = of(name.as_ref(), &["node".to_owned()].into()).unwrap_err();
            assert!(error.contains("([node])") && error.contains("geo-dns has [dns]"), "{error}");
        }
    }

    #[test]
    fn sections_tell_more_than_the_name_and_the_name_decides_between_them() {
        assert_eq!(found("edge.toml", "[store]"), Some(Kind::CoreNode));
        assert_eq!(found("edge.toml", "[store]\n[uplink]"), Some(Kind::EdgeNode));
        assert_eq!(found("x.toml", "[store]\n[uplink]"), None);
        assert_eq!(found("dns.toml", "[store]\n[uplink]"), None);
    }
}
