//! For the tests of each crate: are its metrics described, and named as Prometheus wants them.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use metrics_exporter_prometheus::PrometheusBuilder;

use super::metric::{Kind, Metric};

/// What is wrong with the metrics in the Rust sources under `folder`: not described, described as another kind, or described
/// but not there.
///
/// # Errors
/// A file cannot be read.
pub fn sources(folder: &Path, described: &[Metric]) -> io::Result<Vec<String>> {
    let mut used = vec![];
    visit(folder, &mut |text| used.extend(uses(text)))?;
    let told = |kind: &Kind, name: &str| described.iter().any(|metric| metric.kind == *kind && metric.name == name);
    let missing = used.iter().filter(|(kind, name)| !told(kind, name));
    let missing = missing.map(|(kind, name)| format!("{name}: not described as {kind:?}"));
    let gone = described.iter().filter(|m| !used.iter().any(|(_, name)| name == m.name));
    let gone = gone.map(|metric| format!("{}: described, but not there", metric.name));
    Ok(missing.chain(gone).collect())
}

/// What `promtool check metrics` says of `described`; nothing if all is well.
///
/// # Errors
/// There is no promtool (Debian's package `prometheus` has it).
pub fn promtool(described: &[Metric]) -> io::Result<String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rendered(described).as_bytes())?;
    }
    let said = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).trim().to_owned())
}

/// All of `described` as `/metrics` shows them.
fn rendered(described: &[Metric]) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        for metric in described {
            metric.describe();
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name).increment(1),
                Kind::Gauge => metrics::gauge!(metric.name).set(1.0),
                Kind::Histogram => metrics::histogram!(metric.name).record(1.0),
            }
        }
    });
    recorder.handle().render()
}

fn visit(folder: &Path, file: &mut impl FnMut(&str)) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, file)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            file(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Every use of a macro of the crate `metrics` with a name as text.
fn uses(text: &str) -> Vec<(Kind, String)> {
    let kinds = [(Kind::Counter, "counter!("), (Kind::Gauge, "gauge!("), (Kind::Histogram, "histogram!(")];
    let named = |after: &str| Some(after.trim_start().strip_prefix("\"nearfield_")?.split('"').next()?.to_owned());
    let of_kind = |(kind, call): (Kind, &'static str)| {
        let found = text.split(call).skip(1).filter_map(named).map(move |name| (kind, format!("nearfield_{name}")));
        found.collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}
