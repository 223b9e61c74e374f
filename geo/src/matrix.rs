//! A table of measured round trips between sites: Azure's published one, or an operator's own.

use std::{collections::BTreeMap, sync::Arc};

/// Azure's published round trips between its regions; see `data/README.md`.
const AZURE_RTT: &str = include_str!("../data/azure_rtt.csv");

/// The most sites a table may have: its cells then take 32 MB.
pub const MAX_SITES: usize = 2000;

/// No round trip on Earth is longer, in milliseconds.
pub const MAX_MS: f64 = 60_000.0;

/// Round trips between sites, the same both ways: the mean where the two directions differ, since a round
/// trip has none.
#[derive(Debug, Clone, PartialEq)]
pub struct RttMatrix {
    sites: Vec<Arc<str>>,
    index: BTreeMap<Arc<str>, usize>,
    /// Row by row; `None` for a site and itself, and where nobody measured.
    ms: Vec<Option<f64>>,
}

/// Why a text is not a matrix. Lines count from 1, comments included.
#[derive(Debug, thiserror::Error)]
pub enum BadMatrix {
    /// Not CSV.
    #[error("matrix: {0}")]
    Csv(#[from] csv::Error),
    /// Not a round trip.
    #[error("matrix, line {line}: `{cell}` is no round trip: allowed are 0 to {MAX_MS} milliseconds, or nothing")]
    Cell {
        /// Where.
        line: u64,
        /// What stands there.
        cell: String,
    },
    /// A site without a name.
    #[error(
        "matrix, line {line}: a site has no name; expected rows `source,target,ms`, or a table with a header of targets"
    )]
    Nameless {
        /// Where.
        line: u64,
    },
    /// More than [`MAX_SITES`].
    #[error("matrix: more than {MAX_SITES} sites")]
    TooMany,
    /// Nothing to choose between.
    #[error("matrix: no round trip between two sites in it")]
    Empty,
}

/// One measured direction: source, target, milliseconds.
type Cell = (Arc<str>, Arc<str>, f64);

impl RttMatrix {
    /// The table compiled into the program.
    pub fn azure() -> Self {
        Self::parse(AZURE_RTT).expect("the built-in matrix is valid: a test reads it")
    }

    /// Reads either form: rows `source,target,ms` (with or without that header), or a header of targets and for
    /// each source a row of milliseconds. Lines that begin with `#` are comments, an empty cell is unknown.
    ///
    /// # Errors
    /// See [`BadMatrix`].
    pub fn parse(text: &str) -> Result<Self, BadMatrix> {
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .has_headers(false)
            .from_reader(text.as_bytes());
        let mut rows = reader.records();
        let Some(first) = rows.next().transpose()? else { return Err(BadMatrix::Empty) };
        let mut cells = Vec::new();
        match form(&first) {
            Form::List { header } => {
                if !header {
                    cells.extend(listed(&first)?);
                }
                for row in rows {
                    cells.extend(listed(&row?)?);
                }
            }
            Form::Table => {
                for row in rows {
                    tabled(&first, &row?, &mut cells)?;
                }
            }
        }
        Self::of(cells)
    }

    fn of(cells: Vec<Cell>) -> Result<Self, BadMatrix> {
        let (mut sites, mut index) = (Vec::new(), BTreeMap::new());
        for site in cells.iter().flat_map(|(source, target, _)| [source, target]) {
            if !index.contains_key(site) {
                index.insert(site.clone(), sites.len());
                sites.push(site.clone());
            }
            if sites.len() > MAX_SITES {
                return Err(BadMatrix::TooMany);
            }
        }
        let mut sums: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for (source, target, ms) in &cells {
            let (a, b) = (index[source], index[target]);
            if a != b {
                let sum = sums.entry((a.min(b), a.max(b))).or_default();
                *sum = (sum.0 + ms, sum.1 + 1.0);
            }
        }
        if sums.is_empty() {
            return Err(BadMatrix::Empty);
        }
        let mut ms = vec![None; sites.len() * sites.len()];
        for ((a, b), (sum, count)) in sums {
            ms[a * sites.len() + b] = Some(sum / count);
            ms[b * sites.len() + a] = Some(sum / count);
        }
        Ok(Self { sites, index, ms })
    }

    /// The sites, in the order in which the text names them.
    pub fn sites(&self) -> &[Arc<str>] {
        &self.sites
    }

    /// The place of a site among [`RttMatrix::sites`].
    pub fn position(&self, site: &str) -> Option<usize> {
        self.index.get(site).copied()
    }

    /// The round trip between two sites by their places, in milliseconds; `None` where nobody measured it.
    pub fn rtt_ms(&self, a: usize, b: usize) -> Option<f64> {
        let n = self.sites.len();
        if a < n && b < n { self.ms[a * n + b] } else { None }
    }
}

enum Form {
    List { header: bool },
    Table,
}

fn form(first: &csv::StringRecord) -> Form {
    let is = |i: usize, name: &str| first.get(i).is_some_and(|cell| cell.eq_ignore_ascii_case(name));
    let number = |i: usize| first.get(i).is_some_and(|cell| cell.parse::<f64>().is_ok());
    match first.len() {
        3 if is(0, "source") && is(1, "target") => Form::List { header: true },
        3 if number(2) => Form::List { header: false },
        _ => Form::Table,
    }
}

fn listed(row: &csv::StringRecord) -> Result<Option<Cell>, BadMatrix> {
    let line = line(row);
    let name = |i: usize| row.get(i).filter(|name| !name.is_empty()).ok_or(BadMatrix::Nameless { line });
    let ms = milliseconds(row.get(2).unwrap_or_default(), line)?;
    ms.map(|ms| Ok::<_, BadMatrix>((name(0)?.into(), name(1)?.into(), ms))).transpose()
}

fn tabled(targets: &csv::StringRecord, row: &csv::StringRecord, into: &mut Vec<Cell>) -> Result<(), BadMatrix> {
    let line = line(row);
    let source: Arc<str> = row.get(0).filter(|name| !name.is_empty()).ok_or(BadMatrix::Nameless { line })?.into();
    for (target, cell) in targets.iter().zip(row.iter()).skip(1) {
        let Some(ms) = milliseconds(cell, line)? else { continue };
        if target.is_empty() {
            return Err(BadMatrix::Nameless { line });
        }
        into.push((source.clone(), target.into(), ms));
    }
    Ok(())
}

fn milliseconds(cell: &str, line: u64) -> Result<Option<f64>, BadMatrix> {
    if cell.is_empty() {
        return Ok(None);
    }
    let ms = cell.parse::<f64>().ok().filter(|ms| (0.0..=MAX_MS).contains(ms));
    ms.map(Some).ok_or_else(|| BadMatrix::Cell { line, cell: cell.chars().take(64).collect() })
}

fn line(row: &csv::StringRecord) -> u64 {
    row.position().map_or(0, csv::Position::line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_matrix_is_read_and_the_directions_are_averaged() {
        let azure = RttMatrix::azure();
        assert_eq!(azure.sites().len(), 51);
        let (a, b) = (azure.position("Australia Central").unwrap(), azure.position("Brazil South").unwrap());
        assert_eq!(azure.rtt_ms(a, b), azure.rtt_ms(b, a));
        assert_eq!(azure.rtt_ms(a, a), None);
        assert_eq!(azure.rtt_ms(a, 999), None);
    }

    #[test]
    fn a_list_with_or_without_its_header_and_a_table_say_the_same() {
        let header = RttMatrix::parse("source,target,ms\na,b,10\nb,a,12\na,c,30.5\n").unwrap();
        assert_eq!(header.rtt_ms(0, 1), Some(11.0));
        assert_eq!(header, RttMatrix::parse("# ours\na,b,10\nb,a,12\na,c,30.5").unwrap());
        assert_eq!(header, RttMatrix::parse("Source,a,b,c\na,,10,30.5\nb,12,,\nc,,,\n").unwrap());
    }

    #[test]
    fn what_is_no_matrix_is_refused_with_its_line() {
        let refuse = |text: &str| RttMatrix::parse(text).unwrap_err().to_string();
        assert!(refuse("source,target,ms\na,b,10\na,c,far\n").contains("line 3: `far`"));
        assert!(refuse("source,target,ms\na,b,NaN\n").contains("`NaN`"));
        assert!(refuse("source,target,ms\na,b,-1\n").contains("`-1`"));
        assert!(refuse("source,target,ms\n,b,1\n").contains("no name"));
        assert!(refuse("source,target,ms\na,b\n").contains("3 fields"));
        assert!(refuse("source,target,ms\na,a,1\n").contains("no round trip"));
        assert!(refuse("").contains("no round trip"));
        let crowd: String = (0..=MAX_SITES).map(|i| format!("hub,s{i},1\n")).collect();
        assert!(refuse(&crowd).contains("more than 2000"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_is_read_or_refused(text in "[a-c,0-9.\\-\n#\"]{0,300}") {
            let _ = RttMatrix::parse(&text);
        }
    }
}
