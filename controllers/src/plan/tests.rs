use std::{collections::BTreeSet, sync::Arc};

use stower_crds::{ObjectKey, Uid};

use crate::{
    fixtures::{Scene, at},
    *,
};

/// Ten new containers; those of a lower rank come later by name.
fn ten() -> (Desired, Observed) {
    let (mut desired, mut observed) = (Desired::default(), Observed::default());
    for index in 0..10_u32 {
        let scene = Scene::new();
        let mut declared = scene.declared;
        declared.uid = Uid::new(format!("uid-{index}")).unwrap();
        declared.key = ObjectKey::container("default", &format!("c{index}")).unwrap();
        declared.rank = u32::from(index < 5);
        observed.containers.insert(declared.uid.clone(), scene.observed);
        desired.insert(Arc::new(declared));
    }
    (desired, observed)
}

#[test]
fn starts_queue_in_the_order_of_dependency() {
    let (desired, mut observed) = ten();
    observed.containers.get_mut("uid-9").unwrap().in_flight = Some(ActionKind::Start);
    let plan = plan(&desired, &observed, &Records::new(), &at(0), 4);
    let started: Vec<String> = plan.actions.iter().map(|action| action.uid.to_string()).collect();
    assert_eq!(started, ["uid-5", "uid-6", "uid-7"]);
    let deferred: BTreeSet<Uid> =
        ["uid-0", "uid-1", "uid-2", "uid-3", "uid-4", "uid-8"].map(|uid| Uid::new(uid).unwrap()).into();
    assert_eq!(plan.deferred, deferred);
    // What waits is not remembered as set out on.
    let launched = plan.records.iter().filter(|(_, record)| record.launch.is_some()).count();
    assert_eq!(launched, 3);
}

#[test]
fn only_what_is_asked_for_is_planned() {
    let (desired, observed) = ten();
    let one = Uid::new("uid-3").unwrap();
    let plan = plan_some(&desired, &observed, &Records::new(), &at(0), 8, [&one]);
    assert_eq!(plan.actions.len(), 1);
    assert_eq!(plan.actions[0].uid, one);
}

#[test]
fn what_is_not_observed_is_left_alone() {
    let (desired, _) = ten();
    let plan = plan(&desired, &Observed::default(), &Records::new(), &at(0), 8);
    assert!(plan.is_idle() && plan.notes.len() == 10 && plan.records.is_empty());
}

#[test]
fn the_linter_sees_what_is_wrong() {
    let scene = Scene::running();
    let start = Scene::new().plan();
    let observed =
        Observed { containers: [(fixtures::uid(), scene.observed.clone())].into(), ..Observed::default() };
    let records: Records = [(fixtures::uid(), scene.state().unwrap())].into();
    let faults = check(&start, &scene.desired(), &observed, &records);
    assert_eq!(
        faults,
        [
            "start Container default/web: it has not run yet: its former processes are not proven gone",
            "start Container default/web: it has not run yet: its run number was used before",
            "start Container default/web: it has not run yet: its run number was seen before",
        ]
    );
    let gone = Scene::running().with(|s| s.absent = true);
    let unproven = gone.clone().with(|s| s.unproven = true).desired();
    assert_eq!(check(&gone.plan(), &unproven, &observed, &records).len(), 1);
    let mut twice = start.clone();
    twice.actions.extend(start.actions.clone());
    let nothing =
        Observed { containers: [(fixtures::uid(), Scene::new().observed)].into(), ..Observed::default() };
    assert_eq!(check(&twice, &scene.desired(), &nothing, &Records::new()).len(), 1);
}

#[test]
fn records_are_read_back_and_older_ones_too() {
    let mut scene = Scene::exited(1, 100);
    scene.take();
    let record = scene.record.unwrap();
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    // The least that version 1 writes, with a field of a later release.
    let least =
        r#"{"version":1,"uid":"u","key":{"kind":"Container","namespace":"default","name":"web"},"later":1}"#;
    let expected = Record::new(Uid::new("u").unwrap(), fixtures::key());
    assert_eq!(serde_json::from_str::<Record>(least).unwrap(), expected);
}
