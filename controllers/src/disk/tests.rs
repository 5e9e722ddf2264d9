use serde_json::json;
use stower_crds::{ConditionType, Phase};

use crate::{
    fixtures::{Scene, at},
    *,
};

use super::Bytes;

const MIB: u64 = 1 << 20;

fn policy() -> DiskPolicy {
    DiskPolicy {
        high_percent: 85,
        low_percent: 80,
        min_free: Floor { absolute: Some(1 << 30), percent: Some(5) },
        min_free_inodes: Floor { absolute: None, percent: Some(5) },
    }
}

fn disk(available: u64, inodes: u64) -> Disk {
    Disk {
        path: "/data".into(),
        bytes: Room { available: available * MIB, total: 1000 * MIB },
        inodes: Some(Room { available: inodes, total: 1000 }),
        ..Disk::default()
    }
}

#[test]
fn what_is_to_become_free() {
    for (available, inodes, want) in [
        (500, 500, Goal::default()),
        // 85 % in use is not above it.
        (150, 150, Goal::default()),
        (149, 500, Goal { bytes: 51 * MIB, ..Goal::default() }),
        (500, 140, Goal { inodes: 60, ..Goal::default() }),
        (0, 0, Goal { bytes: 200 * MIB, inodes: 200, pool: false }),
    ] {
        assert_eq!(disk(available, inodes).goal(&policy()), want, "{available} {inodes}");
    }
    // A floor that is above the high mark is kept too.
    let high = DiskPolicy { min_free: Floor { absolute: None, percent: Some(40) }, ..policy() };
    assert_eq!(disk(300, 500).goal(&high).bytes, 100 * MIB);
    // Nothing is done about what is not known.
    assert_eq!(Disk::default().goal(&policy()), Goal::default());
    let pool = |available| PoolRoom {
        name: "pool".into(),
        data: Room { available, total: 100 },
        metadata: Room { available: 90, total: 100 },
    };
    let with = |available| Disk { pool: Some(pool(available)), ..disk(500, 500) };
    assert!(!with(15).goal(&policy()).pool && with(14).goal(&policy()).pool);
    let refuses = Disk { refusal: Some("no".into()), ..with(50) };
    assert!(refuses.goal(&policy()).pool);
}

#[test]
fn of_two_floors_the_lower_one_counts() {
    let floor = Floor { absolute: Some(1000), percent: Some(5) };
    assert_eq!([floor.of(10_000), floor.of(20_000), floor.of(1_000_000)], [500, 1000, 1000]);
    assert_eq!(Floor { percent: None, ..floor }.of(10), 1000);
    assert_eq!(Floor::default().of(10), 0);
}

#[test]
fn pressure_says_what_where_and_what_to_do() {
    assert_eq!(disk(50, 50).pressure(&policy()), DiskPressure::default());
    let low = disk(49, 49).pressure(&policy());
    assert_eq!(low.kinds, [PressureKind::Bytes, PressureKind::Inodes].into());
    assert_eq!(
        low.message,
        "the filesystem of /data has 49 MiB of 1000 MiB available, and 50 MiB are kept free; the filesystem of /data has 49 of \
         1000 inodes available, and 50 are kept free: remove images (`stower system prune --all`), containers or volumes, or \
         make it larger"
    );
    let refuses = Disk { refusal: Some("the pool p is read-only: mend it".into()), ..disk(500, 500) };
    let refuses = refuses.pressure(&policy());
    assert_eq!(refuses.kinds, [PressureKind::Driver].into());
    assert_eq!(refuses.message, "the pool p is read-only: mend it");
    assert!(refuses.is_on() && !DiskPressure::default().is_on());
    assert!(!Disk::default().pressure(&policy()).is_on());
}

#[test]
fn use_is_rounded_up() {
    let used = |available, total| Room { available, total }.used_percent();
    assert_eq!([used(0, 0), used(10, 10), used(0, 10), used(999, 1000)], [0, 0, 100, 1]);
    assert_eq!(used(0, u64::MAX), 100);
}

#[test]
fn bytes_are_told_in_units_that_people_compare() {
    let text = |bytes| Bytes(bytes).to_string();
    assert_eq!(text(0), "0 bytes");
    assert_eq!(text(9 << 20), "9216 KiB");
    assert_eq!(text(49 << 20), "49 MiB");
    assert_eq!(text(u64::MAX), "16777215 TiB");
}

/// Run 1 has ended, and its backoff too.
fn restarting() -> Scene {
    let mut scene = Scene::exited(1, 100_000);
    scene.take();
    scene.now = at(10_000_000);
    scene
}

/// Each row is a scene on a full disk, its plan, and the reason of its condition `Ready`.
#[test]
fn on_a_full_disk_nothing_new_begins_and_all_else_goes_on() {
    const WAITS: &str = "Container default/web: it waits: DiskPressure: it is full";
    let rows = [
        ("runs", Scene::running(), "nothing to do", "Running"),
        ("never ran", Scene::new(), WAITS, "DiskPressure"),
        (
            "its image is not here",
            Scene::new().with(|s| s.observed.image.state = ImageState::Absent),
            WAITS,
            "DiskPressure",
        ),
        (
            "a pull that failed for lack of room",
            Scene::new().with(|s| {
                s.observed.image.state = ImageState::Failed {
                    reason: PullFailure::DiskPressure,
                    message: "no space left".into(),
                    at: at(0).mono,
                    attempts: 3,
                };
            }),
            WAITS,
            "DiskPressure",
        ),
        (
            "a pull under way goes on",
            Scene::new().with(|s| s.observed.image.state = ImageState::Pulling),
            WAITS,
            "ContainerCreating",
        ),
        (
            "another process is asked for: the old one goes on",
            Scene::running().with(|s| s.edit(json!({"args": ["-v"]}))),
            WAITS,
            "Running",
        ),
        (
            "a restart by rule has its layer",
            restarting(),
            "restart Container default/web: restartPolicy Always after exit code 1",
            "ContainerCreating",
        ),
        (
            "a restart with a fresh layer",
            restarting().with(|s| {
                s.edit(json!({"restart": {"rootfs": "Fresh"}}));
                let (generation, spec) = (s.declared.generation, s.declared.spec.clone());
                let launch = s.record().launch.as_mut().unwrap();
                (launch.generation, launch.spec) = (generation, spec);
            }),
            WAITS,
            "DiskPressure",
        ),
        (
            "a restart whose layer is gone",
            restarting().with(|s| s.observed.rootfs = RootfsState::Absent),
            WAITS,
            "DiskPressure",
        ),
        (
            "a restart whose image is gone",
            restarting().with(|s| s.observed.image.state = ImageState::Absent),
            WAITS,
            "DiskPressure",
        ),
        (
            "a removal frees room",
            restarting().with(|s| s.declared.terminating = true),
            "remove Container default/web: removed from directory",
            "Stopping",
        ),
    ];
    for (what, scene, plan, reason) in rows {
        let mut scene = scene.full();
        assert_eq!(scene.says(), plan, "{what}");
        // What is said while it waits, or while what was begun is under way.
        let taken = scene.take();
        scene.observed.in_flight = taken.actions.first().map(|action| action.act.kind());
        let status = scene.status();
        let ready = status.conditions.get(&ConditionType::Ready).unwrap();
        assert_eq!(ready.reason.as_str(), reason, "{what}");
        // With room again it goes on as if nothing had been.
        scene.pressure = DiskPressure::default();
        scene.observed.in_flight = None;
        assert_ne!(scene.says(), WAITS, "{what}");
    }
    let waiting = Scene::new().full().status();
    assert_eq!(waiting.phase, Phase::Pending);
    let message = waiting.state.unwrap().waiting.unwrap().message;
    assert_eq!(message.as_deref(), Some("it is full"));
    let replaced = Scene::running().with(|s| s.edit(json!({"args": ["-v"]}))).full().status();
    let ready = replaced.conditions.get(&ConditionType::Ready).unwrap();
    assert_eq!(ready.message, "it is to be replaced by generation 2: DiskPressure: it is full");
}

#[test]
fn a_start_that_found_no_room_is_no_run() {
    let mut scene = Scene::new();
    scene.take();
    let (now, message) = (at(10_000), "it is full".to_owned());
    scene.observed.failure = Some(Failure {
        action: ActionKind::Start,
        run: Some(Run(1)),
        reason: FailureReason::DiskPressure,
        message,
        at: now.mono,
        wall: now.wall,
        attempts: 1,
    });
    scene.take();
    let record = scene.record();
    assert_eq!((record.restart_count, record.retries, record.ended.as_ref()), (0, 0, None));
    scene.now = at(11_000);
    assert_eq!(scene.says(), "start Container default/web: the last attempt failed");
}
