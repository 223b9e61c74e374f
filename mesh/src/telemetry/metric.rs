//! What each metric counts, in words: `# HELP` of `/metrics`.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It rises and falls.
    Gauge,
    /// How it is distributed.
    Histogram,
}

/// A metric. Its name ends with its unit (seconds, bytes; ratio for 0 to 1), a counter's with `_total` after it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// What kind of number it is.
    pub kind: Kind,
    /// As Prometheus sees it.
    pub name: &'static str,
    /// What it counts, in a sentence.
    pub help: &'static str,
}

/// A counter.
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Counter, name, help }
}

/// A gauge.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Gauge, name, help }
}

/// A histogram.
pub const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { kind: Kind::Histogram, name, help }
}

impl Metric {
    /// Tells the recorder.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.help),
            Kind::Histogram => metrics::describe_histogram!(self.name, self.help),
        }
    }
}
