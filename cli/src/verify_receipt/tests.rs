#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Duration};

use core_node::receipt::{KIND, jws::sign};
use mesh::identity::{
    Identity, Role,
    certs::{Authority, Credentials},
};
use serde_json::json;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
/// Of the canonical JSON of no segments, `[]`.
const NOTHING_SAID: &str = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";

/// A folder with `receipt.json`, signed by a core of its own, and `ca.pem`.
fn folder(residency: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("a.test", HOUR).unwrap();
    let core = Identity { node: "core-1".parse().unwrap(), role: Role::Core, region: "eu-central".parse().unwrap() };
    let (cert, key) = authority.issue(&core, HOUR).unwrap();
    let credentials = Credentials::from_pem(authority.ca_pem(), &cert, &key, "a.test").unwrap();
    let now = jiff::Timestamp::now();
    let receipt = json!({
        "type": KIND, "meeting_id": uuid(), "status": "done", "sub_code": null,
        "begun_at": now, "ended_at": now, "issued_at": now, "issuer": "core-1", "software": "core-node/test",
        "residency": residency, "relay": {"kind": "whep", "host": "relay.example"},
        "cores": [{"node": "core-1", "region": "eu-central", "role": "serving", "term": 1, "from": now, "to": now,
                   "software": "core-node/test"}],
        "edges": [], "counts": {"frames": 0, "spurts": 0, "segments": 0, "words": 0}, "gaps": [],
        "transcript": {"sha256": NOTHING_SAID},
    });
    let signed = sign(receipt.to_string().as_bytes(), &credentials).unwrap();
    std::fs::write(dir.path().join("receipt.json"), signed).unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.ca_pem()).unwrap();
    dir
}

fn uuid() -> &'static str {
    "01890a5d-ac96-774b-bcce-b302099a8057"
}

fn verified(dir: &Path, change: impl FnOnce(&mut Args)) -> Result<String, String> {
    let file = |name: &str| dir.join(name);
    let mut args = Args { file: file("receipt.json"), ca: file("ca.pem"), crl: None, regions: None, transcript: None };
    change(&mut args);
    let mut out = vec![];
    run(&args, &mut out).map_err(|e| format!("{e:#}"))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_receipt_is_shown_and_said_to_be_valid() {
    let dir = folder(&["eu"]);
    let said = verified(dir.path(), |_| {}).unwrap();
    assert!(said.contains("core-1") && said.contains(uuid()), "{said}");
    assert!(said.ends_with("The receipt is valid.\n"), "{said}");
}

#[test]
fn the_transcript_is_compared_if_it_is_given() {
    let dir = folder(&[]);
    let transcript = dir.path().join("transcript.json");
    let with = |text: &str| {
        std::fs::write(&transcript, text).unwrap();
        verified(dir.path(), |args| args.transcript = Some(transcript.clone()))
    };
    with(r#"{"segments": []}"#).unwrap();
    let refused = with(r#"{"segments": [1]}"#).unwrap_err();
    assert!(refused.contains("the transcript is not the one of the receipt"), "{refused}");
}

#[test]
fn what_is_not_to_be_believed_is_named_with_its_reason() {
    let dir = folder(&["jp"]);
    let refused = verified(dir.path(), |_| {}).unwrap_err();
    assert!(refused.contains("receipt.json: not to be believed: core-1 is in eu-central, outside"), "{refused}");
    let other = folder(&[]);
    let refused = verified(dir.path(), |args| args.ca = other.path().join("ca.pem")).unwrap_err();
    assert!(refused.contains("not accepted under the given authorities"), "{refused}");
    let refused = verified(dir.path(), |args| args.file = "/no/such/receipt".into()).unwrap_err();
    assert!(refused.contains("/no/such/receipt: cannot be read"), "{refused}");
}

#[test]
fn the_mesh_s_own_regions_are_read() {
    let dir = folder(&["home"]);
    let regions = dir.path().join("regions.csv");
    std::fs::write(&regions, "id,lat,lon,residency,azure\neu-central,50.1,8.7,home,\n").unwrap();
    assert!(verified(dir.path(), |_| {}).unwrap_err().contains("--regions"));
    verified(dir.path(), |args| args.regions = Some(regions)).unwrap();
}
