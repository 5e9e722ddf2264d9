use super::job::compile;
use super::{ExecRecord, ExecRequest, TerminalSize};
use crate::caps::CapSets;
use crate::job::{CgroupJoin, Process, UserJob};

fn record() -> ExecRecord {
    ExecRecord {
        version: 1,
        boot_id: "boot".to_owned(),
        run: 3,
        process: Process {
            args: vec!["/own".to_owned()],
            env: vec!["A=1".to_owned(), "PATH=/bin".to_owned()],
            cwd: "/srv".to_owned(),
            user: UserJob { lookup: None, uid: 7, gid: 8, additional_gids: vec![9] },
            umask: 0o027,
            caps: CapSets::default(),
            rlimits: Vec::new(),
            no_new_privileges: true,
            oom_score_adj: None,
            personality: None,
        },
        cgroup: CgroupJoin::default(),
        filter: vec![0x0706_0504_0302_0100, u64::MAX],
        extra: serde_json::Map::new(),
    }
}

fn request() -> ExecRequest {
    ExecRequest { args: vec!["ps".to_owned()], ..ExecRequest::default() }
}

#[test]
fn what_is_not_asked_for_is_the_containers_own() {
    let job = compile(&record(), 42, &request()).unwrap();
    let mut process = record().process;
    process.args = vec!["ps".to_owned()];
    assert_eq!(job.process, process);
    assert_eq!((job.init_pid, job.filter_len, job.deadline_ms, job.stdio), (42, 16, None, [false; 3]));
}

#[test]
fn what_is_asked_for_takes_its_place() {
    let wanted = ExecRequest {
        env: vec!["A=2".to_owned(), "B=".to_owned(), "TERM=dumb".to_owned()],
        cwd: Some("/".to_owned()),
        user: Some("app".to_owned()),
        terminal: Some(TerminalSize { rows: 1, columns: 2 }),
        ..request()
    };
    let job = compile(&record(), 42, &wanted).unwrap();
    assert_eq!(job.process.env, ["PATH=/bin", "A=2", "B=", "TERM=dumb"]);
    assert_eq!((job.process.cwd.as_str(), job.process.user.lookup.as_deref()), ("/", Some("app")));
    assert_eq!(job.process.user.additional_gids, [9]);
}

#[test]
fn nonsense_is_refused_by_its_name() {
    let refused = |wanted: ExecRequest| compile(&record(), 1, &wanted).unwrap_err().to_string();
    assert_eq!(refused(ExecRequest::default()), "args: there is no command; give one");
    assert_eq!(
        refused(ExecRequest { env: vec!["=x".to_owned()], ..request() }),
        "env: `` is not of the form NAME=value"
    );
    assert_eq!(
        refused(ExecRequest { cwd: Some("tmp".to_owned()), ..request() }),
        "cwd: `tmp` is not an absolute path"
    );
    assert!(refused(ExecRequest { user: Some(String::new()), ..request() }).starts_with("user: is empty"));
    assert_eq!(
        refused(ExecRequest { args: vec!["a\0b".to_owned()], ..request() }),
        "args: holds a zero byte"
    );
}

#[test]
fn a_filter_survives_the_record() {
    let bytes: Vec<u8> = (0..16).collect();
    let mut kept = record();
    kept.filter = bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    let text = serde_json::to_vec(&kept).unwrap();
    let read: ExecRecord = serde_json::from_slice(&text).unwrap();
    assert_eq!(read, kept);
    assert_eq!(read.filter_bytes(), bytes);
}

#[test]
fn fields_of_a_newer_release_are_kept() {
    let mut value = serde_json::to_value(record()).unwrap();
    value["newer"] = 1.into();
    value["process"]["newer"] = 1.into();
    let read: ExecRecord = serde_json::from_value(value).unwrap();
    assert_eq!(read.extra["newer"], 1);
}
