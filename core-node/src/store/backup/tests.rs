#![allow(clippy::unwrap_used)]

use mesh::config::Source;

use super::*;
use crate::{
    config::Config,
    store::{
        Op,
        record::{MeetingRecord, Status, removal::Removal},
    },
    tests::fakes::{self, Core},
};

struct Place {
    config: Config,
    dir: tempfile::TempDir,
}

fn place(node: &str, listen: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("core.example.toml");
    let store = dir.path().join("core.redb");
    let sets = [format!("node.id={node}"), format!("store.path={}", store.display()), format!("http.listen={listen}")];
    let source = Source::read(Some(&example), "NEARFIELD_CORE_TEST_UNSET", &sets).unwrap();
    Place { config: source.parse().unwrap(), dir }
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn meetings(&self) -> usize {
        let store = Store::open(&self.config.store_file()).unwrap();
        store.standing(Status::Done, None, 10).unwrap().len()
    }

    fn write(&self, meeting: u128) {
        let store = Store::open(&self.config.store_file()).unwrap();
        let id = mesh::wire::MeetingId::from_u128(meeting);
        let record = MeetingRecord { id, status: Status::Done, ..fakes::record() };
        store.write(&[Op::Meeting(record.into())]).unwrap();
    }
}

#[test]
fn a_backup_is_put_back_and_what_was_there_is_set_aside() {
    let place = place("core-1", "127.0.0.1:1");
    place.write(1);
    let file = place.path("backup");
    assert!(backup(&place.config.kept(), &file).unwrap().contains("1 meetings"));
    assert!(backup(&place.config.kept(), &file).unwrap_err().to_string().contains("already"));
    place.write(2);
    assert_eq!(place.meetings(), 2);
    let told = restore(&place.config.kept(), &file).unwrap();
    assert!(told.contains("1 meetings") && told.contains("before-restore"), "{told}");
    assert_eq!(place.meetings(), 1);
    assert_eq!(place.files().len(), 3, "{:?}", place.files());

    let other = self::place("core-2", "127.0.0.1:1");
    let refused = format!("{:#}", restore(&other.config.kept(), &file).unwrap_err());
    assert!(refused.contains("core-1") && refused.contains("core-2"), "{refused}");
    assert_eq!(other.files(), Vec::<String>::new(), "nothing is left behind");
    fs::write(place.path("text"), "no store").unwrap();
    assert!(restore(&place.config.kept(), &place.path("text")).is_err());
    assert_eq!(place.meetings(), 1);
}

#[test]
fn a_store_in_use_is_not_replaced_and_one_that_can_be_opened_is_not_repaired() {
    let place = place("core-1", "127.0.0.1:1");
    place.write(1);
    backup(&place.config.kept(), &place.path("backup")).unwrap();
    assert!(repair(&place.config.kept()).unwrap_err().to_string().contains("nothing to repair"));
    let _used = Store::open(&place.config.store_file()).unwrap();
    for refused in [restore(&place.config.kept(), &place.path("backup")), repair(&place.config.kept())] {
        let refused = format!("{:#}", refused.unwrap_err());
        assert!(refused.contains("open in another process"), "{refused}");
    }
    assert!(backup(&place.config.kept(), &place.path("other")).is_err(), "nobody answers there");
    assert_eq!(place.files(), ["backup", "core.redb"]);
}

#[test]
fn a_damaged_store_is_repaired_and_the_damaged_file_set_aside() {
    let place = place("core-1", "127.0.0.1:1");
    let path = place.config.store_file();
    (1..60).for_each(|n| place.write(n));
    // As a kill leaves it, one bit of the oldest pages flipped at a time, until the start is refused.
    let store = Store::open(&path).unwrap();
    let id = mesh::wire::MeetingId::from_u128(99);
    store.write(&[Op::Meeting(MeetingRecord { id, ..fakes::record() }.into())]).unwrap();
    let sound = fs::read(&path).unwrap();
    drop(store);
    let refused = (4096 + 64..sound.len()).step_by(512).any(|at| {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let refused = matches!(Store::open(&path), Err(StoreError::Damaged { .. }));
        fs::write(&path, &bytes).unwrap();
        refused
    });
    assert!(refused);
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.contains("core-node repair"), "{error}");
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    let told = repair(&place.config.kept()).unwrap();
    assert!(told.contains("damaged"), "{told}");
    let _ = Store::open(&path).unwrap();
    assert_eq!(Store::open(&path).unwrap().belong_to(&"core-1".parse().unwrap()).err().map(|e| e.to_string()), None);
}

#[test]
fn what_was_removed_since_the_backup_was_made_is_not_brought_back_by_it() {
    let place = place("core-1", "127.0.0.1:1");
    place.write(1);
    place.write(2);
    let file = place.path("backup");
    backup(&place.config.kept(), &file).unwrap();
    let removal = Removal::told(&fakes::record(), mesh::clock::Micros(1));
    let id = mesh::wire::MeetingId::from_u128(1);
    Store::open(&place.config.store_file()).unwrap().write(&[Op::Remove(id, removal.clone())]).unwrap();
    let told = restore(&place.config.kept(), &file).unwrap();
    assert!(told.contains("1 meetings"), "{told}");
    assert_eq!(place.meetings(), 1);
    let store = Store::open(&place.config.store_file()).unwrap();
    assert_eq!((store.meeting(id).unwrap(), store.removals().unwrap()[&id].clone()), (None, removal));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_runs_hands_out_a_copy_of_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core.redb");
    let core = Core::start(&file, false);
    core.create().await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let token = mesh::wire::request::Secret("t0ken".into());
    let app = crate::api::App { token: Some(token.clone()), ..core.app.clone() };
    let open = mesh::http::serve(listen, core.router(), Default::default(), &Default::default()).await.unwrap();
    let closed =
        mesh::http::serve(listen, crate::api::router(app), Default::default(), &Default::default()).await.unwrap();
    let [mut place, mut without] = [closed, open].map(|api| place("core-1", &api.to_string()));
    (place.config.store.path, without.config.store.path) = (file.clone(), file);
    place.config.api.token = Some(token);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let to = place.path("backup");
    let (config, told_to) = (place.config.clone(), to.clone());
    let refused =
        tokio::task::spawn_blocking(move || backup(&without.config.kept(), &without.path("backup"))).await.unwrap();
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("api.token"), "a proxy on this machine speaks for everybody: {refused}");
    let told = tokio::task::spawn_blocking(move || backup(&config.kept(), &told_to)).await.unwrap().unwrap();
    assert!(told.contains("1 meetings"), "{told}");
    let copy = Store::open(&to).unwrap();
    assert_eq!(copy.under_way().unwrap().len(), 1);
    let kept: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(kept, ["core.redb"], "the copy is gone from its disk");
}
