//! Environment variables that look like settings and are none.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::Source;

/// What all of Nearfield's variables begin with.
const OURS: &str = "NEARFIELD_";

/// Words after it that other programs read: those of this workspace, and what builds and tests them.
const OTHERS: [&str; 11] =
    ["CORE__", "EDGE__", "DNS__", "CACHE", "FUZZ", "HISTORIES", "MODEL", "SEED", "SPEECH", "TOKEN", "WORLD"];

/// The most words of a name for which every way of writing it is tried: 64 ways.
const MAX_WORDS: usize = 7;

impl Source {
    /// Warnings about variables that begin as Nearfield's do and say nothing to this program, whose settings are a `T`: each
    /// with the name that was meant, if one is near.
    pub fn strays<T: DeserializeOwned>(&self) -> Vec<String> {
        let warn = |(name, text): (&String, &String)| {
            let near = self.near::<T>(name, text);
            let hint = near.map_or_else(
                || format!("this program's settings begin with `{}__`", self.prefix),
                |near| format!("did you mean `{near}`?"),
            );
            format!("environment variable `{name}` has no effect: {hint}")
        };
        self.stray.iter().map(warn).collect()
    }

    /// The name that a variable with too few or too many underscores was to have.
    fn near<T: DeserializeOwned>(&self, name: &str, text: &str) -> Option<String> {
        let words: Vec<&str> = name.strip_prefix(&self.prefix)?.split('_').filter(|word| !word.is_empty()).collect();
        if !(1..=MAX_WORDS).contains(&words.len()) {
            return None;
        }
        let ways = 0..1_u32 << (words.len() - 1);
        let key = |way: u32| {
            let mut key = words[0].to_ascii_lowercase();
            for (n, word) in words[1..].iter().enumerate() {
                key.push(if way >> n & 1 == 1 { '.' } else { '_' });
                key.push_str(&word.to_ascii_lowercase());
            }
            key
        };
        let known = ways.map(key).find(|key| self.knows::<T>(key, text))?;
        Some(format!("{}__{}", self.prefix, known.to_ascii_uppercase().replace('.', "__")))
    }

    /// Whether `T` has the key: the parser itself says which it does not know.
    fn knows<T: DeserializeOwned>(&self, key: &str, text: &str) -> bool {
        let mut with = Self { table: self.table.clone(), ..Self::default() };
        if with.insert(key, text, "").is_err() {
            return false;
        }
        let refused = with.parse::<T>().err().map(|e| e.to_string());
        refused.is_none_or(|why| !why.contains("unknown field") && !why.contains("invalid type: map"))
    }
}

/// Those of `variables` that begin as ours do, and are neither settings nor other programs'.
pub(super) fn stray(prefix: &str, variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = format!("{prefix}__");
    let others = |rest: &str| OTHERS.iter().any(|other| rest.starts_with(other));
    let looks = |name: &str| name.strip_prefix(OURS).is_some_and(|rest| !others(rest)) && !name.starts_with(&own);
    variables.iter().filter(|(name, _)| looks(name)).map(|(name, text)| (name.clone(), text.clone())).collect()
}
