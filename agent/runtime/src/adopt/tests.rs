use super::*;

fn record(boot_id: &str) -> ShimRecord {
    let id = std::process::id();
    ShimRecord {
        version: 1,
        boot_id: boot_id.into(),
        shim_pid: id,
        shim_start: proc::start_time(id).unwrap().unwrap(),
        init_pid: id,
        init_start: 1,
        run: 3,
        started_at: "2026-01-02T03:04:05.000000006Z".into(),
        shim: "sha256:0".into(),
        contract: 1,
        extra: serde_json::Map::default(),
    }
}

fn in_dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn exit(run: u64) -> String {
    format!(
        r#"{{"version":1,"bootId":"b","run":{run},"exitCode":3,"signal":0,"startedAt":"s","finishedAt":"f","new":[1]}}"#
    )
}

#[test]
fn no_record_is_none() {
    assert!(matches!(adopt(in_dir(&[]).path(), "b"), Adoption::None));
    assert!(matches!(adopt(Path::new("/nonexistent/run"), "b"), Adoption::None));
}

#[test]
fn another_boot_voids_a_record_even_of_a_live_pid() {
    let text = serde_json::to_string(&record("before")).unwrap();
    assert!(matches!(adopt(in_dir(&[("shim.json", &text)]).path(), "b"), Adoption::OtherBoot(_)));
}

#[test]
fn a_live_process_is_held() {
    let text = serde_json::to_string(&record("b")).unwrap();
    let Adoption::Running(handle) = adopt(in_dir(&[("shim.json", &text)]).path(), "b") else { panic!() };
    assert_eq!(handle.ended().unwrap(), None);
    // The start time of the first process is another's.
    assert!(handle.init_pidfd().is_none());
    // Nobody listens there.
    assert!(matches!(handle.state(), Err(ShimError::Gone)));
}

#[test]
fn a_pid_in_use_again_is_not_the_shim() {
    let mut other = record("b");
    other.shim_start += 1;
    let text = serde_json::to_string(&other).unwrap();
    assert!(matches!(adopt(in_dir(&[("shim.json", &text)]).path(), "b"), Adoption::Lost(_)));
    let dir = in_dir(&[("shim.json", &text), ("exit.json", &exit(3))]);
    let Adoption::Exited(exit_record) = adopt(dir.path(), "b") else { panic!() };
    assert_eq!(exit_record.exit_code, 3);
    assert!(exit_record.extra.contains_key("new"), "fields of a newer release are kept");
    // An exit record of an earlier run says nothing of this one.
    let dir = in_dir(&[("shim.json", &text), ("exit.json", &exit(2))]);
    assert!(matches!(adopt(dir.path(), "b"), Adoption::Lost(_)));
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let newer = r#"{"version":2,"everything":"else"}"#;
    let unknown = |dir: tempfile::TempDir| match adopt(dir.path(), "b") {
        Adoption::Unknown(e) => e.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(unknown(in_dir(&[("shim.json", newer)])).contains("version 2"));
    assert!(unknown(in_dir(&[("shim.json", "{")])).contains("not a record"));
    assert!(unknown(in_dir(&[("shim.json", "")])).contains("not a record"));
    assert!(unknown(in_dir(&[("shim.json", &" ".repeat(70_000))])).contains("longer than any record"));
    let dir = in_dir(&[]);
    std::os::unix::fs::symlink("/dev/null", dir.path().join("shim.json")).unwrap();
    assert!(unknown(dir).contains("regular file"));
    // The shim has ended, how cannot be told.
    let mut gone = record("b");
    gone.shim_start += 1;
    let gone = serde_json::to_string(&gone).unwrap();
    assert!(unknown(in_dir(&[("shim.json", &gone), ("exit.json", newer)])).contains("exit.json"));
}

#[test]
fn a_record_survives_writing_and_keeps_unknown_fields() {
    let dir = in_dir(&[("shim.json.new", "left over by a crash")]);
    let fd = std::fs::File::open(dir.path()).unwrap();
    let mut before = record("b");
    before.extra.insert("later".into(), 1.into());
    before.write(&fd).unwrap();
    assert_eq!(ShimRecord::read(&fd).unwrap().unwrap(), before);
}

#[test]
fn answers_outside_the_contract_are_refused() {
    assert!(answer(kind::STATE, &[0; 3]).is_none());
    assert!(answer(kind::ERROR, &[0; 3]).is_none());
    assert!(answer(7, &[0; 64]).is_none());
    let refused = answer(kind::ERROR, b"\x02\0\0\0no").unwrap();
    assert_eq!(refused.unwrap_err().to_string(), "the shim refuses the request: no (code 2)");
}
