use super::*;

/// The lock of a data root, twice: as an agent has it, and as the next one finds it.
fn twice(dir: &Path, pid: &str) -> (File, File) {
    let path = dir.join("lock");
    std::fs::write(&path, pid).unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let held = open();
    held.try_lock().unwrap();
    (held, open())
}

#[test]
fn what_a_dead_agent_has_left_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    // Not reaped: a pid that is nobody's any more is as good.
    stower_runtime::proc::wait(
        rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap(),
        None,
    )
    .unwrap();
    let (held, mut lock) = twice(dir.path(), &format!("{}\n", child.id()));
    let mut held = Some(held);
    let mut pauses = 0;
    let pause = || {
        pauses += 1;
        if pauses == 3 {
            drop(held.take());
        }
    };
    assert_eq!(taken(&mut lock, pause).unwrap(), Ok(()));
    assert_eq!(pauses, 3);
    child.wait().unwrap();
}

#[test]
fn one_that_stays_is_told_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let (_held, mut lock) = twice(dir.path(), &child.id().to_string());
    let mut pauses = 0;
    assert_eq!(taken(&mut lock, || pauses += 1).unwrap(), Err(child.id().to_string()));
    assert_eq!(pauses, LEFT_LOOKS);
}

#[test]
fn a_living_agent_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let own = std::process::id().to_string();
    for (written, told) in [(own.as_str(), own.as_str()), ("", "?")] {
        let (_held, mut lock) = twice(dir.path(), written);
        let never = || panic!("it is waited for {told}");
        assert_eq!(taken(&mut lock, never).unwrap(), Err(told.to_owned()));
    }
}
