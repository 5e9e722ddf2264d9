use super::*;

#[test]
fn the_start_time_is_found_behind_any_name() {
    let rest = (3..=52).map(|n| format!(" {n}")).collect::<String>();
    for name in ["sh", "a b", "x) (y", ") S 1 2 3"] {
        assert_eq!(parse_start(&format!("7 ({name}){rest}")), Some(22), "{name}");
    }
    assert_eq!(parse_start("7 (sh) S 1"), None);
    assert_eq!(parse_start(""), None);
}

#[test]
fn only_the_same_process_is_opened() {
    let pid = std::process::id();
    let start = start_time(pid).unwrap().unwrap();
    assert!(open(ProcessId { pid, start }).unwrap().is_some());
    assert!(open(ProcessId { pid, start: start + 1 }).unwrap().is_none());
    assert!(open(ProcessId { pid: 0, start }).unwrap().is_none());
    assert!(open(ProcessId { pid: u32::MAX, start }).unwrap().is_none());
}

#[test]
fn an_ended_process_is_told_from_a_reaped_one() {
    let mut child = std::process::Command::new("sh").args(["-c", "exit 5"]).spawn().unwrap();
    let id = ProcessId { pid: child.id(), start: start_time(child.id()).unwrap().unwrap() };
    let pidfd = open(id).unwrap().unwrap();
    assert!(wait(&pidfd, None).unwrap());
    assert!(has_ended(&pidfd).unwrap());
    assert_eq!(start_time(id.pid).unwrap(), Some(id.start), "a zombie is still there");
    child.wait().unwrap();
    assert!(open(id).unwrap().is_none());
    assert!(!signal(pidfd.as_fd(), Signal::TERM).unwrap());
    // Older kernels do not know; one that does tells the truth.
    assert!(matches!(exit_code(pidfd.as_fd()), None | Some(5)));
}

#[test]
fn the_boot_id_is_a_uuid() {
    assert_eq!(boot_id().unwrap().len(), 36);
}
