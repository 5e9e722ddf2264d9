use serde_json::json;

use super::*;

#[test]
fn the_history_tells_what_ran() {
    let image = stower_storage::ImageConfig {
        entrypoint: vec!["/e".into()],
        cmd: vec!["c".into()],
        ..Default::default()
    };
    for (spec, expected) in [
        (json!({}), "/e c"),
        (json!({"args": ["a"]}), "/e a"),
        (json!({"command": ["x"]}), "x"),
        (json!({"command": ["x"], "args": ["y", "z"]}), "x y z"),
    ] {
        assert_eq!(command_line(&spec, &image), expected);
    }
}

#[test]
fn options_are_read_strictly() {
    let read = |text| serde_json::from_str::<CommitOptions>(text);
    assert_eq!(read("{}").unwrap(), CommitOptions::default());
    assert!(!read(r#"{"pause": false}"#).unwrap().pause);
    assert!(read(r#"{"puase": false}"#).is_err());
}

/// Our own groups, with a process in one of them.
struct Sleeper(Cgroups, std::process::Child);

impl Sleeper {
    fn new(name: &str) -> Self {
        let groups = Cgroups::detect(&format!("{name}{}", std::process::id()), None).unwrap();
        let join = groups.create("u", &stower_runtime::cgroup::Limits::default()).unwrap();
        let child = std::process::Command::new("sleep").arg("1000000").spawn().unwrap();
        for dir in join.v1.iter().map(|group| &group.dir).chain(&join.v2) {
            std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        Self(groups, child)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.thaw("u");
        let _ = self.1.kill();
        let _ = self.1.wait();
        let _ = self.0.remove("u");
        let _ = self.0.remove_root();
    }
}

#[test]
fn root_a_container_stands_still_as_long_as_the_guard_lives() {
    let sleeper = Sleeper::new("rootfs-a");
    let (groups, frozen) = (&sleeper.0, Arc::<Frozen>::default());
    let freeze = Freeze::begin(groups, &frozen, "u").unwrap().expect("it runs");
    assert_eq!(groups.frozen("u"), Some(true));
    let second = Freeze::begin(groups, &frozen, "u").unwrap_err();
    assert_eq!(second.code, 409);
    assert_eq!(groups.frozen("u"), Some(true), "a second commit lets it go on");
    drop(freeze);
    assert_eq!(groups.frozen("u"), Some(false));
    // On a panic too.
    let panics = std::panic::catch_unwind(|| {
        let _freeze = Freeze::begin(groups, &frozen, "u").unwrap();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panics.is_err());
    assert_eq!(groups.frozen("u"), Some(false));
    assert!(Freeze::begin(groups, &frozen, "u").unwrap().is_some(), "the claim is left behind");
    assert!(Freeze::begin(groups, &frozen, "nobody").unwrap().is_none(), "nothing runs there");
}

#[test]
fn root_what_an_earlier_agent_left_still_goes_on() {
    let sleeper = Sleeper::new("rootfs-b");
    sleeper.0.freeze("u").unwrap();
    thaw_all(&sleeper.0);
    assert_eq!(sleeper.0.frozen("u"), Some(false));
}
