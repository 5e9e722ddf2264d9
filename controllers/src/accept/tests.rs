use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;
use stower_crds::{Generation, Object, ObjectKey, Uid};

use super::*;
use crate::fixtures::{at, object};

struct Sources {
    ledger: Ledger,
    uids: u32,
}

fn dir() -> SourceId {
    SourceId::new("directory")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::container("default", name).unwrap()
}

fn good(objects: &[Arc<Object>]) -> FileState {
    FileState::Good(objects.to_vec())
}

impl Sources {
    fn new() -> Self {
        let mut ledger = Ledger::default();
        ledger.restore(&dir(), None, Vec::new());
        Self { ledger, uids: 0 }
    }

    fn fresh<T>(&mut self, call: impl FnOnce(&mut Ledger, &mut dyn FnMut() -> Uid) -> T) -> T {
        let uids = &mut self.uids;
        call(&mut self.ledger, &mut || {
            *uids += 1;
            Uid::new(format!("uid-{uids}")).unwrap()
        })
    }

    fn read(&mut self, fs: &str, files: &[(&str, FileState)]) -> Changes {
        let files = files.iter().map(|(name, state)| (FileId::new(name), state.clone())).collect();
        let snapshot = SourceSnapshot::Read { fs_id: Some(FsId::new(fs)), files, allow_empty: false };
        self.fresh(|ledger, fresh| ledger.snapshot(&dir(), snapshot, fresh, at(0).wall))
    }

    fn file(&mut self, source: &SourceId, files: &[(&str, Option<FileState>)]) -> Changes {
        let files = files.iter().map(|(name, state)| (FileId::new(name), state.clone())).collect();
        self.fresh(|ledger, fresh| ledger.files(source, files, fresh, at(0).wall))
    }

    fn forget(&mut self, uid: &str) -> Changes {
        let uid = Uid::new(uid).unwrap();
        self.fresh(|ledger, fresh| ledger.forget(&uid, fresh, at(0).wall))
    }

    /// `name uid generation file`, and `-` when it is being removed.
    fn says(&self) -> Vec<String> {
        let line = |(key, entry): (&ObjectKey, &Entry)| {
            let gone = if entry.deleted_at.is_some() { " -" } else { "" };
            format!("{} {} {} {}{gone}", key.name, entry.uid, entry.generation, entry.claim.file)
        };
        self.ledger.iter().map(line).collect()
    }

    fn rejections(&self) -> Vec<String> {
        self.ledger.rejections().map(|rejection| rejection.to_string()).collect()
    }
}

#[test]
fn identity_survives_edits_and_moves_and_ends_with_removal() {
    let mut all = Sources::new();
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))])), ("b.yaml", good(&[]))]);
    assert_eq!(all.says(), ["web uid-1 1 a.yaml"]);
    // The same again changes nothing.
    assert!(all.file(&dir(), &[("a.yaml", Some(good(&[object("web", json!({}))])))]).is_empty());
    // An edit is a new generation.
    all.file(&dir(), &[("a.yaml", Some(good(&[object("web", json!({"args": ["-v"]}))])))]);
    assert_eq!(all.says(), ["web uid-1 2 a.yaml"]);
    // A move to another file, in one batch.
    let moved = good(&[object("web", json!({"args": ["-v"]}))]);
    all.file(&dir(), &[("a.yaml", None), ("b.yaml", Some(moved.clone()))]);
    assert_eq!(all.says(), ["web uid-1 2 b.yaml"]);
    // Its removal ends it; what is declared meanwhile waits, and is another object then.
    all.file(&dir(), &[("b.yaml", Some(good(&[])))]);
    assert_eq!(all.says(), ["web uid-1 2 b.yaml -"]);
    all.file(&dir(), &[("c.yaml", Some(moved))]);
    assert_eq!(all.says(), ["web uid-1 2 b.yaml -"]);
    assert_eq!(
        all.rejections(),
        ["Container default/web of c.yaml (directory) waits until its predecessor is removed"]
    );
    all.forget("uid-1");
    assert_eq!(all.says(), ["web uid-2 1 c.yaml"]);
    assert!(all.rejections().is_empty());
}

#[test]
fn forget_takes_only_what_is_being_removed() {
    let mut all = Sources::new();
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))]))]);
    assert!(all.forget("uid-1").is_empty());
    assert_eq!(all.says(), ["web uid-1 1 a.yaml"]);
}

#[test]
fn the_first_file_owns_a_name_and_the_other_takes_over() {
    let mut all = Sources::new();
    all.read("disk", &[("b.yaml", good(&[object("web", json!({}))]))]);
    let other = object("web", json!({"args": ["-v"]}));
    all.file(&dir(), &[("a.yaml", Some(good(&[other])))]);
    assert_eq!(all.says(), ["web uid-1 1 b.yaml"]);
    assert_eq!(
        all.rejections(),
        ["Container default/web of a.yaml (directory) is not accepted: b.yaml (directory) declared it first"]
    );
    // A full rescan, which lists a.yaml first, changes nothing.
    let rescan = all.read(
        "disk",
        &[
            ("a.yaml", good(&[object("web", json!({"args": ["-v"]}))])),
            ("b.yaml", good(&[object("web", json!({}))])),
        ],
    );
    assert!(rescan.is_empty());
    all.file(&dir(), &[("b.yaml", None)]);
    assert_eq!(all.says(), ["web uid-1 2 a.yaml"]);
    assert!(all.rejections().is_empty());
}

#[test]
fn another_source_takes_over_as_another_object() {
    let mut all = Sources::new();
    let api = SourceId::new("api");
    all.ledger.restore(&api, None, Vec::new());
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))])), ("b.yaml", good(&[]))]);
    all.file(&api, &[("default/web", Some(good(&[object("web", json!({}))])))]);
    assert_eq!(all.rejections().len(), 1);
    all.file(&dir(), &[("a.yaml", None)]);
    assert_eq!(all.says(), ["web uid-1 1 a.yaml -"]);
    all.forget("uid-1");
    assert_eq!(all.says(), ["web uid-2 1 default/web"]);
}

#[test]
fn a_name_twice_in_one_file_is_a_conflict_with_itself() {
    let mut all = Sources::new();
    let twice = good(&[object("web", json!({})), object("web", json!({"args": ["-v"]}))]);
    all.read("disk", &[("a.yaml", twice)]);
    assert_eq!((all.says().len(), all.rejections().len()), (1, 1));
    // Without the first, the second has the name, and it is the same object.
    all.file(&dir(), &[("a.yaml", Some(good(&[object("web", json!({"args": ["-v"]}))])))]);
    assert_eq!((all.says(), all.rejections().len()), (vec!["web uid-1 2 a.yaml".into()], 0));
}

#[test]
fn a_bad_file_keeps_its_last_good_objects_over_a_restart_too() {
    let mut all = Sources::new();
    let bad = FileState::Bad { error: "a.yaml:3:5: spec.imge: unknown field".into() };
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))])), ("b.yaml", good(&[]))]);
    assert!(all.file(&dir(), &[("a.yaml", Some(bad.clone()))]).source);
    assert_eq!(all.ledger.file_errors(&dir()).count(), 1);
    assert_eq!(all.says(), ["web uid-1 1 a.yaml"]);
    let mut next = Sources::new();
    let entries = all.ledger.iter().map(|(_, entry)| entry.clone()).collect();
    next.ledger.restore(&dir(), Some(FsId::new("disk")), entries);
    next.read("disk", &[("a.yaml", bad)]);
    assert_eq!(next.says(), ["web uid-1 1 a.yaml"]);
    // A bad file that is removed is removed.
    next.file(&dir(), &[("a.yaml", None)]);
    assert_eq!(next.says(), ["web uid-1 1 a.yaml -"]);
    assert_eq!(next.ledger.file_errors(&dir()).count(), 0);
}

#[test]
fn what_cannot_be_read_whole_removes_nothing_and_changes_nothing() {
    let two = [("a.yaml", good(&[object("web", json!({}))])), ("b.yaml", good(&[object("db", json!({}))]))];
    let before = ["db uid-1 1 b.yaml", "web uid-2 1 a.yaml"];
    type Trouble = fn(&mut Sources) -> Changes;
    let troubles: [(&str, Trouble); 4] = [
        ("unreadable", |all| {
            let snapshot = SourceSnapshot::Unreadable { why: "permission denied".into() };
            all.fresh(|ledger, fresh| ledger.snapshot(&dir(), snapshot, fresh, at(0).wall))
        }),
        ("another filesystem", |all| {
            all.read("root", &[("a.yaml", good(&[object("web", json!({"args": ["old"]}))]))])
        }),
        ("empty", |all| all.read("disk", &[])),
        ("every file at once", |all| all.file(&dir(), &[("a.yaml", None), ("b.yaml", None)])),
    ];
    for (name, trouble) in troubles {
        let mut all = Sources::new();
        all.read("disk", &two);
        let changes = trouble(&mut all);
        assert!(changes.source && changes.changed.is_empty(), "{name}");
        assert!(all.ledger.trouble(&dir()).is_some(), "{name}");
        assert_eq!(all.says(), before, "{name}");
        // What is seen of single files meanwhile proves nothing.
        all.file(&dir(), &[("a.yaml", None)]);
        assert_eq!(all.says(), before, "{name}");
        // Read well again, it is followed again.
        all.read("disk", &two[..1]);
        assert_eq!(all.says(), ["db uid-1 1 b.yaml -", "web uid-2 1 a.yaml"], "{name}");
        assert_eq!(all.ledger.trouble(&dir()), None);
    }
}

#[test]
fn the_only_file_may_go_alone_and_a_word_empties_the_rest() {
    let mut all = Sources::new();
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))]))]);
    all.file(&dir(), &[("a.yaml", None)]);
    assert_eq!(all.says(), ["web uid-1 1 a.yaml -"]);
    let mut all = Sources::new();
    all.read("disk", &[("a.yaml", good(&[object("web", json!({}))]))]);
    let snapshot =
        SourceSnapshot::Read { fs_id: Some(FsId::new("new")), files: BTreeMap::new(), allow_empty: true };
    all.fresh(|ledger, fresh| ledger.snapshot(&dir(), snapshot, fresh, at(0).wall));
    assert_eq!(all.says(), ["web uid-1 1 a.yaml -"]);
}

#[test]
fn a_source_without_a_ledger_proves_nothing_until_it_is_read() {
    let mut ledger = Ledger::default();
    let mut fresh = || Uid::new("uid-1").unwrap();
    let snapshot = SourceSnapshot::Unreadable { why: "not mounted".into() };
    ledger.snapshot(&dir(), snapshot, &mut fresh, at(0).wall);
    assert_eq!(ledger.desired().unproven(), Some((&dir(), "not mounted")));
    let snapshot = SourceSnapshot::Read { fs_id: None, files: BTreeMap::new(), allow_empty: false };
    ledger.snapshot(&dir(), snapshot, &mut fresh, at(0).wall);
    assert_eq!(ledger.desired().unproven(), None);
}

#[test]
fn the_desired_that_is_updated_is_the_desired_that_is_made_anew() {
    let mut all = Sources::new();
    let mut desired = all.ledger.desired();
    let one = good(&[object("web", json!({})), object("db", json!({}))]);
    let changes = [
        all.read("disk", &[("a.yaml", one), ("b.yaml", good(&[]))]),
        all.file(&dir(), &[("a.yaml", Some(good(&[object("web", json!({"args": ["-v"]}))])))]),
        all.forget("uid-1"),
    ];
    for changes in changes {
        all.ledger.update(&mut desired, &changes);
    }
    assert_eq!(desired, all.ledger.desired());
    assert_eq!(desired.get(&key("web")).unwrap().generation, Generation(2));
}

#[test]
fn a_server_that_gives_another_uid_has_another_object() {
    let of = |uid: &str| {
        let value = json!({
            "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
            "metadata": {"name": "web", "namespace": "default", "uid": uid}, "spec": {"image": "web:1"},
        });
        good(&[Arc::new(stower_crds::read_accepted(value).unwrap())])
    };
    let mut all = Sources::new();
    all.file(&dir(), &[("default/web", Some(of("server-1")))]);
    all.file(&dir(), &[("default/web", Some(of("server-2")))]);
    assert_eq!(all.says(), ["web server-1 1 default/web -"]);
    all.forget("server-1");
    assert_eq!(all.says(), ["web server-2 1 default/web"]);
}

#[test]
fn a_server_proves_each_removal_and_numbers_its_objects() {
    let server = SourceId::new("server");
    let of = |name: &str, generation: i64, created: &str| {
        let value = json!({
            "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
            "metadata": {
                "name": name, "namespace": "default", "uid": format!("uid-of-{name}"), "generation": generation,
                "creationTimestamp": created,
            },
            "spec": {"image": "web:1"},
        });
        Some(good(&[Arc::new(stower_crds::read_accepted(value).unwrap())]))
    };
    let created = "2026-01-01T00:00:00Z";
    let mut all = Sources::new();
    let say = |all: &mut Sources, files: &[(&str, Option<FileState>)], complete| {
        let files = files.iter().map(|(name, state)| (FileId::new(name), state.clone())).collect();
        all.fresh(|ledger, fresh| ledger.objects(&server, files, complete, fresh, at(0).wall))
    };
    say(&mut all, &[("web", of("web", 7, created)), ("db", of("db", 1, created))], false);
    assert_eq!(all.says(), ["db uid-of-db 1 db", "web uid-of-web 7 web"]);
    let web = all.ledger.get(&key("web")).unwrap();
    assert_eq!(web.created_at, created.parse().unwrap());
    // Until all was read, what is not among it may still be there.
    assert!(all.ledger.desired().unproven().is_some());
    say(&mut all, &[("web", of("web", 9, created))], true);
    assert_eq!(all.says(), ["db uid-of-db 1 db", "web uid-of-web 9 web"]);
    assert_eq!(all.ledger.desired().unproven(), None);
    let claimed: Vec<&str> = all.ledger.claimed(&server).map(|(file, _)| file.as_str()).collect();
    assert_eq!(claimed, ["db", "web"]);
    // All of them at once is proof too, other than of a directory.
    say(&mut all, &[("web", None), ("db", None)], false);
    assert_eq!(all.says(), ["db uid-of-db 1 db -", "web uid-of-web 9 web -"]);
}
