use serde_json::json;
use stower_crds::{ConditionType, Generation};

use super::*;
use crate::{
    fixtures::{Scene, at},
    *,
};

const MIB: u64 = 1 << 20;

fn limit(bytes: Option<u64>, change: LimitChange) -> LayerLimit {
    LayerLimit { bytes, without: None, block: 4096, change }
}

/// Runs with a limit of the layer, and is then declared with another one.
fn scene(have: Option<u64>, change: LimitChange, want: Option<&str>) -> Scene {
    let mut scene = Scene::running();
    scene.observed.limit = Some(limit(have, change));
    if let Some(want) = want {
        scene.edit(json!({"resources": {"limits": {"ephemeral-storage": want}}}));
    }
    scene
}

#[test]
fn every_change_of_a_limit_is_made_or_told() {
    use LimitChange::{Any, Fresh, Grow, Never};
    type Row = (Option<u64>, LimitChange, Option<&'static str>, Option<(&'static str, &'static str)>);
    let shrink =
        "its writable layer is limited to 64Mi and cannot shrink: 32Mi takes effect with a new layer";
    let rows: &[Row] = &[
        (None, Grow, None, None),
        (None, Never, None, None),
        (Some(64 * MIB), Grow, Some("64Mi"), None),
        // Rounded up to a block.
        (Some(4096), Grow, Some("1"), None),
        (
            Some(8192),
            Grow,
            Some("1"),
            Some((
                "CannotShrink",
                "its writable layer is limited to 8Ki and cannot shrink: 1 takes effect with a new layer",
            )),
        ),
        (Some(64 * MIB), Grow, Some("128Mi"), None),
        (Some(64 * MIB), Grow, Some("32Mi"), Some(("CannotShrink", shrink))),
        (Some(64 * MIB), Fresh, Some("32Mi"), Some(("CannotShrink", shrink))),
        (Some(64 * MIB), Any, Some("32Mi"), None),
        (Some(64 * MIB), Any, None, None),
        (None, Any, Some("32Mi"), None),
        (
            None,
            Fresh,
            Some("32Mi"),
            Some(("Deferred", "its writable layer has no limit: 32Mi takes effect with a new layer")),
        ),
        (
            Some(64 * MIB),
            Fresh,
            Some("128Mi"),
            Some(("Deferred", "its writable layer is limited to 64Mi: 128Mi takes effect with a new layer")),
        ),
        (
            Some(64 * MIB),
            Grow,
            None,
            Some(("Deferred", "its writable layer stays limited to 64Mi until there is a new layer")),
        ),
        (
            None,
            Never,
            Some("1Gi"),
            Some(("Infeasible", "the storage driver of this node cannot limit what a container writes")),
        ),
    ];
    for (have, change, want, expected) in rows {
        let scene = scene(*have, *change, *want);
        let kept = kept(&scene.declared.spec, &scene.observed);
        let kept = kept.as_ref().map(|kept| (kept.reason.as_str(), kept.message.as_str()));
        assert_eq!(kept, *expected, "{have:?} {change:?} {want:?}");
    }
    // A device has a size in any case, and that of all is no limit.
    let mut device = scene(Some(64 * MIB), Grow, None);
    assert!(kept(&device.declared.spec, &device.observed).is_some());
    device.observed.limit = Some(LayerLimit { without: Some(64 * MIB), ..limit(Some(64 * MIB), Grow) });
    assert_eq!(kept(&device.declared.spec, &device.observed), None);
    // A layer that is not there, or of which nothing is known, stands in nobody's way.
    let mut gone = scene(Some(64 * MIB), Grow, Some("32Mi"));
    gone.observed.rootfs = RootfsState::Absent;
    assert_eq!(kept(&gone.declared.spec, &gone.observed), None);
    gone.observed.rootfs = RootfsState::Present { image: None };
    gone.observed.limit = None;
    assert_eq!(kept(&gone.declared.spec, &gone.observed), None);
}

/// In place, and the plan says before that it cannot be.
#[test]
fn a_plan_tells_what_a_change_of_the_limit_comes_to() {
    let mut grown = scene(Some(64 * MIB), LimitChange::Grow, Some("128Mi"));
    let plan = grown.plan();
    let update = "update Container default/web in place: spec.resources set to {\"limits\":{\"ephemeral-storage\":\"128Mi\"}}";
    assert_eq!(plan.actions.iter().map(ToString::to_string).collect::<Vec<_>>(), [update]);
    assert_eq!(plan.notes, []);
    grown.observed.limit = Some(limit(Some(128 * MIB), LimitChange::Grow));
    grown.observed.updated = Some(Generation(2));
    assert!(grown.take().actions.is_empty());
    assert_eq!(grown.plan(), Plan::default());

    let mut shrunk = scene(Some(64 * MIB), LimitChange::Grow, Some("32Mi"));
    let note = "Container default/web: its writable layer is limited to 64Mi and cannot shrink: 32Mi takes effect with a new layer";
    let plan = shrunk.plan();
    assert_eq!(plan.actions[0].act.kind(), ActionKind::Update);
    assert_eq!(plan.notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [note]);
    // The rest of the resources was applied; what cannot be stays told, and nothing more is done.
    shrunk.observed.updated = Some(Generation(2));
    shrunk.take();
    let plan = shrunk.plan();
    assert!(plan.actions.is_empty() && plan.records.is_empty(), "{plan:?}");
    assert_eq!(plan.notes.len(), 1);
}

/// A replacement has a new layer, and with it the limit.
#[test]
fn a_replacement_says_nothing_of_the_old_layer() {
    let mut scene = scene(Some(64 * MIB), LimitChange::Grow, Some("32Mi"));
    scene.edit(json!({"args": ["-v"], "resources": {"limits": {"ephemeral-storage": "32Mi"}}}));
    let plan = scene.plan();
    assert_eq!(plan.actions[0].act.kind(), ActionKind::Stop);
    assert_eq!(plan.notes, []);
}

#[test]
fn the_status_tells_what_is_given() {
    let status = |scene: &Scene| {
        let record = scene.record.clone().map(RecordState::Known);
        container_status(
            &StatusInput {
                declared: &scene.declared,
                observed: &scene.observed,
                record: record.as_ref(),
                queued: false,
                pressure: &DiskPressure::default(),
                problems: &[],
                old: None,
            },
            &at(20_000),
        )
    };
    let mut scene = scene(Some(64 * MIB), LimitChange::Grow, Some("32Mi"));
    scene.observed.updated = Some(Generation(2));
    scene.take();
    let told = status(&scene);
    let given = told.resources.as_ref().unwrap();
    assert_eq!(given.limits.ephemeral_storage, Some(Quantity::from_bytes(64 * MIB)));
    let pending = told.conditions.get(&ConditionType::ResizePending).unwrap();
    assert_eq!(
        (pending.status, pending.reason.as_str()),
        (stower_crds::ConditionStatus::True, "CannotShrink")
    );
    // It gets a layer of the new size.
    scene.observed.limit = Some(limit(Some(32 * MIB), LimitChange::Grow));
    let told = status(&scene);
    let given = told.resources.as_ref().unwrap();
    assert_eq!(given.limits.ephemeral_storage, Some(Quantity::from_bytes(32 * MIB)));
    assert_eq!(told.conditions.get(&ConditionType::ResizePending), None);
    // An update that failed is told too.
    let now = at(10_000);
    scene.observed.failure = Some(Failure {
        action: ActionKind::Update,
        run: Some(Run(1)),
        reason: FailureReason::UpdateContainerError,
        message: "the disk is full".into(),
        at: now.mono,
        wall: now.wall,
        attempts: 1,
    });
    let told = status(&scene);
    let pending = told.conditions.get(&ConditionType::ResizePending).unwrap();
    assert_eq!(
        (pending.reason.as_str(), pending.message.as_str()),
        ("UpdateContainerError", "the disk is full")
    );
    // The next run began with what is declared.
    scene.observed.failure.as_mut().unwrap().run = Some(Run(0));
    assert_eq!(status(&scene).conditions.get(&ConditionType::ResizePending), None);
    // Nothing asked for, nothing told.
    assert_eq!(status(&Scene::running()).resources, None);
}
