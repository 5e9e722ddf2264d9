//! Real containers: what the process inside sees.

mod common;

use common::Case;

#[test]
fn root_a_process_runs_in_its_own_namespaces() {
    let mut case = Case::new(&["pid", "cat:/proc/self/mountinfo", "ls:/dev", "ls:/proc/self/fd", "cat:/proc/self/status", "id"]);
    let a = case.run();
    assert_eq!(a.one("pid"), "1");
    println!("{:#?}", a.lines("cat:/proc/self/mountinfo"));
    println!("{:#?}", a.lines("ls:/dev"));
    println!("{:#?}", a.lines("ls:/proc/self/fd"));
    println!("{:#?}", a.lines("cat:/proc/self/status"));
}
