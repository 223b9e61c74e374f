//! All that keeps a text from being a configuration, where a parser would stop at the first.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{ConfigErrors, Source};

/// The most errors that are told: each costs a parse.
const MAX_ERRORS: usize = 100;

impl Source {
    /// What was read, as a `T`. `example` is a whole file that is one: where a value is wrong or missing, its value stands in, so
    /// that what follows is looked at too.
    ///
    /// # Errors
    /// Every key that is unknown or missing, and every value that is not of its kind; 100 at most.
    pub fn parse_whole<T: DeserializeOwned>(&self, example: &str) -> Result<T, ConfigErrors> {
        let example: Table = example.parse().unwrap_or_default();
        let (mut mended, mut seen, mut errors) = (self.clone(), BTreeSet::new(), vec![]);
        loop {
            let (key, message) = match mended.try_parse::<T>() {
                Ok(whole) => return ConfigErrors::of(errors).map(|()| whole),
                Err(wrong) => wrong,
            };
            let wanting = missing(&key, &message).unwrap_or_else(|| key.clone());
            let at = wanting.split('[').next().unwrap_or_default().to_owned();
            // What is wrong a second time cannot be mended; it has been told.
            if !seen.insert(at.clone()) || errors.len() >= MAX_ERRORS {
                return Err(ConfigErrors(errors));
            }
            errors.push(mended.refuse(&key, message));
            mended.mend(&at, &example);
        }
    }

    /// Puts the example's value at `key`, or removes what is there if the example has none.
    fn mend(&mut self, key: &str, example: &Table) {
        let (path, last) = key.rsplit_once('.').map_or((None, key), |(path, last)| (Some(path), last));
        let (mut table, mut example) = (&mut self.table, Some(example));
        for part in path.iter().flat_map(|path| path.split('.')) {
            example = example.and_then(|table| table.get(part)).and_then(Value::as_table);
            let Some(inner) = table.get_mut(part).and_then(Value::as_table_mut) else { return };
            table = inner;
        }
        match example.and_then(|table| table.get(last)) {
            Some(value) => drop(table.insert(last.to_owned(), value.clone())),
            None => drop(table.remove(last)),
        }
    }
}

/// The key that a message says is missing from the table at `key`.
fn missing(key: &str, message: &str) -> Option<String> {
    let name = message.strip_prefix("missing field `")?.split('`').next()?;
    Some(if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        one: One,
        #[serde(default)]
        two: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        a: u8,
        b: std::net::IpAddr,
        #[serde(default)]
        c: Vec<u8>,
    }

    const EXAMPLE: &str = "two = 2\n[one]\na = 1\nb = \"127.0.0.1\"";

    fn parsed(text: &str) -> Result<Whole, Vec<String>> {
        let mut source = Source::default();
        source.file("x.toml", text).unwrap();
        source.parse_whole(EXAMPLE).map_err(|errors: ConfigErrors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_that_is_wrong_is_told_and_each_once() {
        let told = parsed("three = 3\ntwo = \"x\"\n[one]\na = 300\nc = [1, \"y\"]\nd = 0").unwrap_err();
        let starts = [
            "x.toml: one.a = 300: invalid value",
            "x.toml: one.b: missing",
            "x.toml: one.c[1] = \"y\": invalid type",
            "x.toml: one.d = 0: unknown field `d`",
            "x.toml: three = 3: unknown field `three`",
            "x.toml: two = \"x\": invalid type",
        ];
        assert_eq!(told.len(), starts.len(), "{told:#?}");
        let told_of = |start: &str| told.iter().any(|line| line.starts_with(start));
        assert!(starts[..1].iter().chain(&starts[2..]).all(|start| told_of(start)), "{told:#?}");
        assert!(told_of("x.toml: one: missing field `b`"), "{told:#?}");
    }

    #[test]
    fn a_section_that_is_missing_or_none_hides_nothing_else() {
        assert_eq!(parsed("two = 256").unwrap_err().len(), 2);
        assert_eq!(parsed("one = 1\nthree = 3").unwrap_err().len(), 2);
    }

    #[test]
    fn what_is_right_stays_as_it_is() {
        let one = One { a: 7, b: "::1".parse().unwrap(), c: vec![] };
        assert_eq!(parsed("[one]\na = 7\nb = \"::1\""), Ok(Whole { one, two: None }));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let many: String = (0..1000).map(|n| format!("x{n} = 0\n")).collect();
        assert_eq!(parsed(&many).unwrap_err().len(), MAX_ERRORS);
    }

    #[test]
    fn keys_that_cannot_be_mended_end_the_search() {
        assert_eq!(parsed("\"o.n\" = 1\n\"o.n.e\" = 2").unwrap_err().len(), 1);
    }
}
