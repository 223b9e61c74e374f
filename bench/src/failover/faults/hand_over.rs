//! Edges that are stopped in good order while somebody talks, at Janus and at a WHEP relay.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use mesh::identity::NodeId;

use super::{Broken, Resumes, Stage, Times, now, restarts};
use crate::client::Client;

/// No edge is stopped any more after this share of the time for it: it is to be back before all has been said.
const ENOUGH: f64 = 0.7;
/// How long whoever took a meeting over may be owner without our seeing it.
const SETTLED: Duration = Duration::from_secs(1);

/// SIGTERM of each meeting's own edge in the middle of a word, again and again; each edge is back before the next goes.
pub(super) async fn each_in_turn(stage: &mut Stage, times: Times, say: &dyn Fn(&str)) -> Result<Broken> {
    stage.meeting().wait_until(times.fault).await;
    let mut broken = Broken::new(now(), Resumes::LongestPause);
    let mut steps = Steps::default();
    let (meetings, until) = (stage.meetings.len(), times.fault + times.outage.mul_f64(ENOUGH));
    let mut stopped = 0;
    while stopped < meetings || now().since(stage.meeting().started) < until {
        let meeting = &stage.meetings[stopped % meetings];
        stopped += 1;
        let (_, edge) = meeting.serving().await?;
        let word = meeting.wait_for_word(now().since(meeting.started)).await?;
        say(&format!("in the middle of `{}`:", word.word));
        restarts::restart(stage, &edge, &mut broken, say).await?;
        tokio::time::sleep(SETTLED).await;
        for n in 0..meetings {
            let (_, successor) = stage.meetings[n].serving().await?;
            broken.must(successor != edge, || format!("meeting {} was not handed over by {edge}", n + 1));
            steps.read(stage, &successor).await;
        }
    }
    broken.note("hand_overs", stopped * meetings);
    for (step, ms) in steps.means() {
        say(&format!("{step}: {ms:.1} ms"));
        broken.note(&step, ms);
    }
    restarts::note_end(stage, &mut broken, times);
    Ok(broken)
}

/// How long the steps of the way in took, by the edges' own metrics: sums and counts, by edge's process and step.
#[derive(Default)]
struct Steps(BTreeMap<(u32, String), (f64, f64)>);

impl Steps {
    async fn read(&mut self, stage: &Stage, edge: &NodeId) {
        let (Some(node), Some(process)) = (stage.bed.named(edge), stage.bed.process(edge)) else { return };
        let api = node.api;
        let text = node.host.run(move || async move { Client::new(api)?.text("/metrics").await }).await;
        let Ok(Ok(text)) = text else { return };
        for (name, value) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
            let Ok(value) = value.parse::<f64>() else { continue };
            for (what, place) in [("sum", 0), ("count", 1)] {
                if let Some(labels) = name.strip_prefix(&format!("nearfield_edge_join_seconds_{what}")) {
                    // The newest of a process stands for all of it.
                    let entry = self.0.entry((process, labels.to_owned())).or_default();
                    if place == 0 { entry.0 = value } else { entry.1 = value }
                }
            }
        }
    }

    /// Milliseconds, by labels.
    fn means(&self) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<&String, (f64, f64)> = BTreeMap::new();
        for ((_, labels), (sum, count)) in &self.0 {
            let of = all.entry(labels).or_default();
            *of = (of.0 + sum, of.1 + count);
        }
        all.into_iter().map(|(labels, (sum, count))| (labels.clone(), 1000.0 * sum / count.max(1.0))).collect()
    }
}
