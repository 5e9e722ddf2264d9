//! Shims of former releases, as they were built: this release adopts, asks and stops them.

use std::time::Duration;

use crate::support::{Options, Shim};
use stower_runtime::adopt::{Adoption, Ended, ShimError, adopt};
use stower_runtime::proc;
use stower_runtime::shim::frame::{Phase, error_code};

/// The first: no stop whose signal waits, no time by a clock that nobody sets.
const FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shims/contract-1.x86_64");

fn start(script: &str) -> Shim {
    Shim::start(script, &Options { shim: FIRST, ..Options::default() })
}

#[test]
fn the_first_shim_is_adopted_and_stopped() {
    let mut shim = start("trap 'echo bye; exit 3' TERM; echo up; while :; do read x < /dev/ptmx; done");
    shim.wait_for_line("up");
    let boot_id = proc::boot_id().unwrap();
    let Adoption::Running(handle) = adopt(&shim.run_dir(), &boot_id) else { panic!("it runs") };
    let state = handle.state().unwrap();
    assert_eq!((state.phase, state.run, state.signal_ms), (Phase::Running, 1, 0));
    let hour = Duration::from_secs(3600);
    // It says that it does not know of this, and nothing is begun.
    let later = handle.stop_later(15, hour, hour);
    assert!(matches!(later, Err(ShimError::Refused { code: error_code::TYPE, .. })), "{later:?}");
    assert_eq!(handle.state().unwrap().phase, Phase::Running);
    assert_eq!(handle.stop(15, hour).unwrap().phase, Phase::Stopping);
    let exit = shim.ended().unwrap();
    assert_eq!((exit.exit_code, exit.ran_ms), (3, None));
    assert_eq!(handle.ended().unwrap(), Some(Ended::Exited(exit)));
}

#[test]
fn the_first_shim_is_killed_at_its_deadline() {
    let mut shim = start("trap '' TERM; echo up; exec sleep 1000");
    shim.wait_for_line("up");
    let boot_id = proc::boot_id().unwrap();
    let Adoption::Running(handle) = adopt(&shim.run_dir(), &boot_id) else { panic!("it runs") };
    handle.stop(15, Duration::from_millis(50)).unwrap();
    assert_eq!(shim.ended().unwrap().signal, 9);
}
