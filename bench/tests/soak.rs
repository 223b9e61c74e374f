//! `bench soak` on this machine, for a moment.

mod rig;

use serde_json::Value;

#[test]
fn short_meetings_have_words_and_a_standby_and_every_table_is_named() {
    // A test is no measurement: it must not fail because other things run on the machine.
    let arguments = ["soak", "--minutes", "1", "--at-once", "3", "--seconds", "5", "--patience", "4"];
    let (_, soak) = rig::bench::<Value>(&arguments);
    assert!(soak["meetings"].as_u64().is_some_and(|meetings| meetings >= 3), "{soak}");
    assert_eq!((&soak["failed"], &soak["without_standby"]), (&0.into(), &0.into()), "{soak}");
    let held = &soak["held"]["core-eu-central-1"];
    for name in ["memory, MiB", "open files", "threads", "rows of live_meetings", "rows of links"] {
        assert!(held[name].is_array(), "{name}: {held}");
    }
}
