use std::os::unix::fs::symlink;

use super::*;

/// A directory and a source whose clock only the test moves.
struct Stage {
    dir: tempfile::TempDir,
    source: DirSource,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let source = DirSource::new(dir.path().to_owned(), now);
        Self { dir, source, now }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn heard(&mut self, kind: EventKind, name: &str) {
        let event = notify::Event::new(kind).add_path(self.dir.path().join(name));
        self.source.heard(Ok(event), self.now);
    }

    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.step()
    }

    /// What is told, as `name: objects`, `name: bad …` or `name: gone`.
    fn step(&mut self) -> Vec<String> {
        let told = |update| match update {
            Update::Unreadable { .. } => vec!["unreadable".to_owned()],
            Update::Changes { files, .. } => files
                .into_iter()
                .map(|(name, update)| match update {
                    FileUpdate::Good(objects) => {
                        let names: Vec<_> = objects.iter().map(Declared::key).collect();
                        format!("{name}: {}", names.join(","))
                    }
                    FileUpdate::Bad(problem) => format!("{name}: bad: {}", problem.message),
                    FileUpdate::Gone => format!("{name}: gone"),
                })
                .collect(),
        };
        self.source.step(self.now).into_iter().flat_map(told).collect()
    }
}

fn object(name: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{name: {name}}}\nspec: {{image: x}}\n"
    )
}

const RENAMED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
const MODIFIED: EventKind = EventKind::Modify(ModifyKind::Any);
const REMOVED: EventKind = EventKind::Remove(notify::event::RemoveKind::File);

#[test]
fn a_file_renamed_into_place_is_taken_at_once() {
    let mut stage = Stage::new();
    assert!(stage.step().is_empty());
    stage.write("a.yaml", &object("a"));
    stage.heard(RENAMED, "a.yaml");
    assert_eq!(stage.step(), ["a.yaml: Container default/a"]);
    assert!(stage.after(SETTLE).is_empty(), "an unchanged file was told again");
}

#[test]
fn a_half_written_file_waits_for_its_end() {
    let mut stage = Stage::new();
    stage.step();
    stage.write("a.yaml", "apiVersion: stower.dev/v1alpha1\nkind: Cont");
    stage.heard(RENAMED, "a.yaml");
    assert!(stage.step().is_empty(), "half a file was told");
    stage.write("a.yaml", &object("a"));
    assert_eq!(stage.after(SETTLE), ["a.yaml: Container default/a"]);
}

#[test]
fn a_bad_file_is_told_once_it_stands() {
    let mut stage = Stage::new();
    stage.step();
    stage.write("a.yaml", "kind: [");
    stage.heard(RENAMED, "a.yaml");
    assert!(stage.step().is_empty());
    assert!(stage.after(SETTLE)[0].starts_with("a.yaml: bad: "));
}

#[test]
fn an_editor_that_replaces_by_removal_removes_nothing() {
    let mut stage = Stage::new();
    stage.write("a.yaml", &object("a"));
    assert_eq!(stage.step(), ["a.yaml: Container default/a"]);
    std::fs::remove_file(stage.dir.path().join("a.yaml")).unwrap();
    stage.heard(REMOVED, "a.yaml");
    assert!(stage.after(SETTLE / 2).is_empty());
    stage.write("a.yaml", &object("a2"));
    stage.heard(RENAMED, "a.yaml");
    // It declares another object instead of the first, so it is looked at twice.
    assert!(stage.step().is_empty());
    assert_eq!(stage.after(SETTLE), ["a.yaml: Container default/a2"]);
}

#[test]
fn a_removed_file_is_gone_after_it_settled() {
    let mut stage = Stage::new();
    stage.write("a.yaml", &object("a"));
    stage.step();
    std::fs::remove_file(stage.dir.path().join("a.yaml")).unwrap();
    stage.heard(REMOVED, "a.yaml");
    assert!(stage.step().is_empty());
    // The first look finds nothing and asks for a second one.
    assert!(stage.after(SETTLE).is_empty() || stage.source.known.is_empty());
    stage.after(SETTLE);
    assert!(stage.source.known.is_empty());
}

#[test]
fn an_overflow_and_a_switched_configmap_rescan() {
    let mut stage = Stage::new();
    stage.step();
    stage.write("a.yaml", &object("a"));
    let overflow = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    stage.source.heard(Ok(overflow), stage.now);
    assert_eq!(stage.step(), ["a.yaml: Container default/a"]);

    for (version, name) in [("..1", "one"), ("..2", "one")] {
        std::fs::create_dir(stage.dir.path().join(version)).unwrap();
        stage.write(&format!("{version}/m.yaml"), &object(name));
    }
    symlink("..1", stage.dir.path().join("..data")).unwrap();
    symlink("..data/m.yaml", stage.dir.path().join("m.yaml")).unwrap();
    stage.heard(RENAMED, "..data");
    assert_eq!(stage.step(), ["m.yaml: Container default/one"]);
    symlink("..2", stage.dir.path().join("tmp")).unwrap();
    std::fs::rename(stage.dir.path().join("tmp"), stage.dir.path().join("..data")).unwrap();
    stage.heard(RENAMED, "..data");
    assert_eq!(stage.step(), ["m.yaml: Container default/one"]);
}

#[test]
fn a_directory_that_cannot_be_read_is_said_once_and_read_whole_afterwards() {
    let mut stage = Stage::new();
    stage.write("a.yaml", &object("a"));
    stage.step();
    let away = stage.dir.path().with_extension("away");
    std::fs::rename(stage.dir.path(), &away).unwrap();
    stage.source.rescan_at = stage.now;
    assert_eq!(stage.step(), ["unreadable"]);
    assert!(stage.after(RETRY).is_empty(), "it was said twice");
    std::fs::rename(&away, stage.dir.path()).unwrap();
    assert_eq!(stage.after(RETRY), ["a.yaml: Container default/a"]);
}

#[test]
fn only_manifests_are_read() {
    let mut stage = Stage::new();
    for name in [".hidden.yaml", "a.yaml~", "b.txt", "c.yaml.swp"] {
        stage.write(name, &object("x"));
    }
    stage.write("d.json", r#"{"apiVersion":"stower.dev/v1alpha1","kind":"Container","metadata":{"name":"d"},"spec":{"image":"x"}}"#);
    std::fs::create_dir(stage.dir.path().join("e.yaml")).unwrap();
    assert_eq!(stage.step(), ["d.json: Container default/d", "e.yaml: bad: is not a regular file"]);
}

#[test]
fn a_file_still_being_written_is_not_read_before_it_rests() {
    let mut stage = Stage::new();
    stage.step();
    stage.write("a.yaml", &object("a"));
    stage.heard(MODIFIED, "a.yaml");
    assert!(stage.after(SETTLE / 2).is_empty());
    stage.heard(MODIFIED, "a.yaml");
    assert!(stage.after(SETTLE / 2).is_empty(), "a write during the wait did not begin it anew");
    assert_eq!(stage.after(SETTLE), ["a.yaml: Container default/a"]);
}

#[test]
fn a_file_that_is_too_long_is_refused_unread() {
    let mut stage = Stage::new();
    File::create(stage.dir.path().join("a.yaml")).unwrap().set_len(100 << 20).unwrap();
    assert_eq!(stage.step(), ["a.yaml: bad: is longer than 4 MiB; split it into several files"]);
}
