//! Another process takes over a shim.

use std::time::Duration;

use crate::support::{LONG, Options, Shim};
use stower_runtime::adopt::{Adoption, Ended, adopt};
use stower_runtime::proc;
use stower_runtime::shim::frame::Phase;

#[test]
fn a_running_container_is_adopted_and_stopped() {
    let mut shim = Shim::start("trap '' TERM; echo up; exec sleep 1000", &Options::default());
    shim.wait_for_line("up");
    let boot_id = proc::boot_id().unwrap();
    let Adoption::Running(handle) = adopt(&shim.run_dir(), &boot_id) else { panic!("it runs") };
    assert_eq!(handle.state().unwrap().phase, Phase::Running);
    assert_eq!(handle.ended().unwrap(), None);
    assert_eq!(handle.stop(15, Duration::from_secs(1000)).unwrap().phase, Phase::Stopping);
    handle.kill().unwrap();
    let exit = shim.ended().unwrap();
    assert_eq!(exit.signal, 9);
    assert_eq!(handle.ended().unwrap(), Some(Ended::Exited(exit.clone())));
    let Adoption::Exited(found) = adopt(&shim.run_dir(), &boot_id) else { panic!("it has ended") };
    assert_eq!(found, exit);
}

#[test]
fn a_killed_shim_is_lost_and_the_true_code_may_be_known() {
    let mut shim = Shim::start("exec sleep 1000", &Options::default());
    let boot_id = proc::boot_id().unwrap();
    let Adoption::Running(handle) = adopt(&shim.run_dir(), &boot_id) else { panic!("it runs") };
    shim.child.kill().unwrap();
    assert!(proc::wait(handle.shim_pidfd(), Some(LONG)).unwrap());
    shim.child.wait().unwrap();
    assert!(matches!(adopt(&shim.run_dir(), &boot_id), Adoption::Lost(_)));
    assert_eq!(handle.ended().unwrap(), Some(Ended::Lost { exit_code: None }));
    // Its container lives on without a parent; killing it goes through its pidfd.
    handle.kill().unwrap();
    assert!(proc::wait(handle.init_pidfd().unwrap(), Some(LONG)).unwrap());
}

#[test]
fn a_shim_that_does_not_answer_is_no_end() {
    let shim = Shim::start("exec sleep 1000", &Options::default());
    let boot_id = proc::boot_id().unwrap();
    let Adoption::Running(handle) = adopt(&shim.run_dir(), &boot_id) else { panic!("it runs") };
    proc::signal(handle.shim_pidfd(), rustix::process::Signal::STOP).unwrap();
    let asked = handle.state();
    proc::signal(handle.shim_pidfd(), rustix::process::Signal::CONT).unwrap();
    assert!(matches!(asked, Err(stower_runtime::adopt::ShimError::NoAnswer { .. })), "{asked:?}");
    assert_eq!(handle.ended().unwrap(), None);
    assert!(handle.state().is_ok());
}
