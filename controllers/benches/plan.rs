//! What planning and accepting cost on a node with many containers: `cargo bench -p stower-controllers`.

use std::{collections::BTreeMap, sync::Arc};

use divan::{Bencher, black_box};
use jiff::Timestamp;
use stower_controllers::*;
use stower_crds::{Object, Uid};

const NODES: &[usize] = &[100, 1_000, 20_000];

fn main() {
    divan::main();
}

fn object(index: usize, arg: &str) -> Arc<Object> {
    let value = serde_json::json!({
        "apiVersion": "stower.dev/v1alpha1",
        "kind": "Container",
        "metadata": {"name": format!("c{index}"), "namespace": "default"},
        "spec": {"image": "registry.example/app:1", "args": [arg]},
    });
    Arc::new(stower_crds::read_accepted(value).expect("a sound object"))
}

fn now() -> Now {
    let wall = Timestamp::from_second(1_700_000_000).expect("a moment");
    Now { mono: Mono::from_nanos(1), wall, boot_id: BootId::new("boot") }
}

struct Node {
    ledger: Ledger,
    desired: Desired,
    observed: Observed,
    records: Records,
}

/// A node on which every container runs as declared.
fn node(count: usize) -> Node {
    let mut ledger = Ledger::default();
    let source = SourceId::new("directory");
    let file =
        |index: usize| (FileId::new(&format!("{index}.yaml")), FileState::Good(vec![object(index, "a")]));
    let files: BTreeMap<_, _> = (0..count).map(file).collect();
    let mut next = 0_u32;
    let mut fresh = || {
        next += 1;
        Uid::new(format!("00000000-0000-4000-8000-{next:012}")).expect("a UID")
    };
    let snapshot = SourceSnapshot::Read { fs_id: None, files, allow_empty: false };
    ledger.snapshot(&source, snapshot, &mut fresh, now().wall);
    let desired = ledger.desired();
    let mut observed = Observed::default();
    for declared in desired.iter() {
        let mut seen = ObservedContainer::nothing("registry.example/app:1");
        seen.image.state = ImageState::Present { digest: ImageDigest::new("sha256:1"), asked: None };
        observed.containers.insert(declared.uid.clone(), seen);
    }
    let mut records = Records::new();
    let first = plan(&desired, &observed, &records, &now(), usize::MAX);
    records.extend(first.records.into_iter().map(|(uid, record)| (uid, RecordState::Known(record))));
    for seen in observed.containers.values_mut() {
        seen.process = ProcessState::Running { run: Run(1), pid: 1, started_at: now().wall, stopping: None };
        seen.cgroup = CgroupState::Populated;
    }
    let second = plan(&desired, &observed, &records, &now(), usize::MAX);
    records.extend(second.records.into_iter().map(|(uid, record)| (uid, RecordState::Known(record))));
    Node { ledger, desired, observed, records }
}

/// Every container runs as declared: a plan of everything.
#[divan::bench(args = NODES)]
fn settled(bencher: Bencher<'_, '_>, count: usize) {
    let node = node(count);
    let now = now();
    bencher.bench(|| plan(black_box(&node.desired), &node.observed, &node.records, &now, START_CONCURRENCY));
}

/// As after a boot: nothing runs, everything is to start.
#[divan::bench(args = NODES)]
fn after_boot(bencher: Bencher<'_, '_>, count: usize) {
    let mut node = node(count);
    for seen in node.observed.containers.values_mut() {
        (seen.process, seen.cgroup) = (ProcessState::Absent, CgroupState::Absent);
    }
    let now = Now { boot_id: BootId::new("next"), ..now() };
    bencher.bench(|| plan(black_box(&node.desired), &node.observed, &node.records, &now, START_CONCURRENCY));
}

/// A plan of one container, which runs as declared.
#[divan::bench(args = NODES)]
fn one_of(bencher: Bencher<'_, '_>, count: usize) {
    let node = node(count);
    let uid = node.desired.iter().next().expect("one").uid.clone();
    let now = now();
    bencher.bench(|| {
        plan_some(black_box(&node.desired), &node.observed, &node.records, &now, START_CONCURRENCY, [&uid])
    });
}

/// One file of many has changed.
#[divan::bench(args = NODES)]
fn one_file_of(bencher: Bencher<'_, '_>, count: usize) {
    let mut node = node(count);
    let source = SourceId::new("directory");
    let versions = [object(7, "b"), object(7, "a")];
    let wall = now().wall;
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        let state = FileState::Good(vec![Arc::clone(&versions[turn % 2])]);
        let batch = [(FileId::new("7.yaml"), Some(state))].into();
        let changes = node.ledger.files(&source, batch, &mut || unreachable!("no object is new"), wall);
        node.ledger.update(&mut node.desired, &changes);
    });
}
