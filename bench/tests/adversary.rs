//! `bench adversary` on this machine, with what takes long shortened.

mod rig;

use serde_json::Value;

#[test]
fn a_malicious_node_of_each_role_reaches_nothing_and_costs_the_others_nothing() {
    // A test is no measurement: it must not fail because other things run on the machine.
    let (_, outcomes) = rig::bench::<Vec<Value>>(&["adversary", "--short", "--patience", "4"]);
    assert_eq!(outcomes.len(), 15);
    for role in ["edge", "core", "dns"] {
        assert!(outcomes.iter().any(|outcome| outcome["role"] == role), "{role}");
    }
    for outcome in &outcomes {
        assert_eq!((&outcome["reached"], &outcome["held"]), (&0.into(), &true.into()), "{outcome}");
        // It was tried, and those that it was meant for have counted it, each way of it.
        assert!(outcome["tries"].as_u64().is_some_and(|tries| tries > 0), "{outcome}");
        assert!(outcome["turned_away"].as_u64().is_some_and(|count| count > 0), "{outcome}");
        assert!(outcome["beats_missed"].is_u64() && outcome["words_late"].is_u64());
    }
}
