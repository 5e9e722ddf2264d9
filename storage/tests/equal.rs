//! Every driver's merged tree is the tree of sequential unpacking: what `native` has.

use proptest::prelude::*;
use stower_storage::testsuite::random::{stack, stacks};
use stower_storage::testsuite::{Bench, Item, difference};

fn compare(left: &mut Bench, right: &mut Bench, stack: &[Vec<Item>]) -> Result<(), String> {
    for height in 1..=stack.len() {
        match (left.try_unpack(&stack[..height]), right.try_unpack(&stack[..height])) {
            (Ok(one), Ok(two)) => {
                let (one, two) = (left.view(&one), right.view(&two));
                let different = difference(&one, &two);
                if !different.is_empty() {
                    return Err(format!("at height {height}:\n{}", different.join("\n")));
                }
            }
            (Err(_), Err(_)) => return Ok(()),
            (one, two) => return Err(format!("only one refuses it at height {height}: {one:?}, {two:?}")),
        }
    }
    Ok(())
}

#[test]
fn root_hand_made_stacks() {
    for other in ["overlay", "btrfs", "looped"] {
        hand_made(other);
    }
}

fn hand_made(other: &str) {
    let (mut reference, mut driver) = (Bench::new("native"), Bench::new(other));
    for (name, stack) in stacks() {
        compare(&mut reference, &mut driver, &stack).unwrap_or_else(|why| panic!("{other}, {name}: {why}"));
    }
}

fn random(other: &str, cases: u32) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let benches = std::cell::RefCell::new((Bench::new("native"), Bench::new(other)));
    runner
        .run(&stack(), |stack| {
            let mut benches = benches.borrow_mut();
            let (reference, driver) = &mut *benches;
            compare(reference, driver, &stack).map_err(TestCaseError::fail)
        })
        .unwrap();
}

#[test]
fn root_random_stacks_overlay() {
    random("overlay", 200);
}

#[test]
fn root_random_stacks_btrfs() {
    random("btrfs", 100);
}

#[test]
fn root_random_stacks_looped() {
    random("looped", 6);
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_devicemapper_hand_made_stacks() {
    hand_made("devicemapper_ext4");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_devicemapper_hand_made_stacks_on_xfs() {
    hand_made("devicemapper_xfs");
}

#[test]
#[ignore = "needs device-mapper: cargo xtask vm"]
fn root_random_stacks_devicemapper() {
    random("devicemapper_ext4", 6);
}
