//! `/v1/nodes`: the mesh as this core sees it.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use mesh::{identity::Identity, wire::report::Report};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::transcript::timestamp;

/// The live nodes.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeList {
    nodes: Vec<NodeView>,
}

/// A live node.
#[derive(Serialize, ToSchema)]
struct NodeView {
    id: String,
    /// `edge`, `core` or `dns`.
    role: &'static str,
    region: String,
    /// Its QUIC address; absent for the node that answers.
    address: Option<String>,
    /// Whether it is the node that answers.
    this: bool,
    /// Round trip from here, if connected.
    rtt_ms: Option<f64>,
    report: Option<ReportView>,
}

/// What a node last said of itself.
#[derive(Serialize, ToSchema)]
struct ReportView {
    at: String,
    /// 0 idle to 1 at its limit.
    stress: f64,
    meetings: u32,
    capacity: u32,
    draining: bool,
    api: Option<String>,
    software: String,
    /// Round trips to the nearest peer of each region, in milliseconds.
    rtts_ms: BTreeMap<String, f64>,
}

/// The live nodes, this one first.
#[utoipa::path(get, operation_id = "list_nodes", path = "/v1/nodes", tag = "nodes", responses((status = 200, body = NodeList)))]
pub(super) async fn list(State(app): State<App>) -> Json<NodeList> {
    let me = view(app.mesh.identity(), Some(&(app.report)()));
    let members = app.mesh.members().borrow().clone();
    let others = members.iter().map(|member| NodeView {
        address: Some(member.addr.to_string()),
        this: false,
        rtt_ms: app.mesh.rtt(&member.identity.node).map(|rtt| rtt.as_secs_f64() * 1e3),
        ..view(&member.identity, member.report.as_deref())
    });
    Json(NodeList { nodes: std::iter::once(me).chain(others).collect() })
}

fn view(identity: &Identity, report: Option<&Report>) -> NodeView {
    NodeView {
        id: identity.node.to_string(),
        role: identity.role.as_str(),
        region: identity.region.to_string(),
        address: None,
        this: true,
        rtt_ms: None,
        report: report.map(|r| ReportView {
            at: timestamp(r.at).to_string(),
            stress: f64::from(r.stress_permille) / 1e3,
            meetings: r.meetings,
            capacity: r.capacity,
            draining: r.draining,
            api: r.api.clone(),
            software: r.software.clone(),
            rtts_ms: r.rtts.iter().map(|(region, us)| (region.to_string(), f64::from(*us) / 1e3)).collect(),
        }),
    }
}
