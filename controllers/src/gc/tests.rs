use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{fixtures, fixtures::Scene};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn id(text: &str) -> ImageDigest {
    fixtures::digest(text)
}

/// An image that was used at that second and has these parts, each of 10 bytes.
fn image(name: &str, used: i64, parts: &[u32]) -> ImageFacts<u32> {
    ImageFacts {
        id: id(name),
        names: [name.to_owned()].into(),
        digests: [id(name), id(&format!("{name}-index"))].into(),
        is_base: false,
        last_used: at(used),
        parts: parts.iter().copied().collect(),
    }
}

fn stored(images: &[ImageFacts<u32>]) -> Stored<u32> {
    let parts = images.iter().flat_map(|image| &image.parts);
    Stored {
        images: images.to_vec(),
        parts: parts.map(|part| (*part, Takes { bytes: 10, inodes: 1 })).collect(),
    }
}

fn bytes(bytes: u64) -> Goal {
    Goal { bytes, ..Goal::default() }
}

fn removal(name: &str, frees: u64) -> Removal {
    let takes = Takes { bytes: frees * 10, inodes: frees };
    Removal { id: id(name), names: [name.to_owned()].into(), frees: takes }
}

const NOW: i64 = 1_000_000;

#[test]
fn the_least_recently_used_go_first_until_it_is_enough() {
    let all = stored(&[image("c", 30, &[5]), image("a", 10, &[1, 2]), image("b", 20, &[3, 4])]);
    let collect = |goal| all.collect(&Spared::default(), goal, at(NOW));
    assert_eq!(collect(Goal::default()), []);
    assert_eq!(collect(bytes(1)), [removal("a", 2)]);
    assert_eq!(collect(bytes(20)), [removal("a", 2)]);
    assert_eq!(collect(bytes(21)), [removal("a", 2), removal("b", 2)]);
    assert_eq!(collect(Goal { inodes: 3, ..Goal::default() }), [removal("a", 2), removal("b", 2)]);
    let everything = [removal("a", 2), removal("b", 2), removal("c", 1)];
    assert_eq!(collect(bytes(1000)), everything);
    // How much of a pool an image frees is not known before.
    assert_eq!(collect(Goal { pool: true, ..bytes(1) }), everything);
    assert_eq!(all.takes(), Takes { bytes: 50, inodes: 5 });
}

#[test]
fn what_two_share_becomes_free_with_the_second() {
    let all = stored(&[image("a", 10, &[1, 2]), image("b", 20, &[2, 3]), image("c", 30, &[3])]);
    let collect = |goal| all.collect(&Spared::default(), goal, at(NOW));
    assert_eq!(collect(bytes(11)), [removal("a", 1), removal("b", 1)]);
    assert_eq!(collect(bytes(31)).len(), 3);
    // With one that is spared, what it shares is never counted.
    let spared = Spared { names: ["c".to_owned()].into(), ..Spared::default() };
    assert_eq!(all.collect(&spared, bytes(1000), at(NOW)), [removal("a", 1), removal("b", 1)]);
}

#[test]
fn what_something_refers_to_stays() {
    let based = ImageFacts { is_base: true, names: BTreeSet::new(), ..image("based", 1, &[1]) };
    let all = stored(&[
        based,
        image("named", 2, &[2]),
        image("resolved", 3, &[3]),
        image("young", NOW - 119, &[4]),
    ]);
    let spared = Spared {
        names: ["named".to_owned()].into(),
        digests: [id("resolved-index")].into(),
        min_age: Duration::from_secs(120),
        named: false,
    };
    assert_eq!(all.collect(&spared, Goal::EVERYTHING, at(NOW)), []);
    assert_eq!(all.collect(&spared, Goal::EVERYTHING, at(NOW + 1)), [removal("young", 1)]);
    // A clock that was set back makes nothing old.
    assert_eq!(all.collect(&spared, Goal::EVERYTHING, at(NOW - 1000)), []);
    let unnamed = Spared { named: true, ..Spared::default() };
    let nameless = ImageFacts { names: BTreeSet::new(), ..image("x", 1, &[9]) };
    let all = stored(&[image("a", 1, &[1]), nameless]);
    let ids: Vec<_> = all.collect(&unnamed, Goal::EVERYTHING, at(NOW)).into_iter().map(|it| it.id).collect();
    assert_eq!(ids, [id("x")]);
}

#[test]
fn declared_objects_and_records_refer() {
    let scene = Scene::running();
    let found = references(&scene.desired(), &scene.records());
    let want =
        References { names: [fixtures::IMAGE.to_owned()].into(), digests: [id("1")].into(), unknown: None };
    assert_eq!(found, want);
    // It runs one image and is to run another one.
    let scene = Scene::running().with(|scene| {
        scene.declared.spec = fixtures::spec(json!({"image": "other"}));
        scene.record.as_mut().unwrap().image.as_mut().unwrap().digest = id("2");
    });
    let found = references(&scene.desired(), &scene.records());
    assert_eq!((found.names, found.digests), (["other".to_owned()].into(), [id("1"), id("2")].into()));
    // What nobody declares any more is remembered until it is gone.
    let scene = Scene::running().with(|scene| scene.absent = true);
    assert_eq!(references(&scene.desired(), &scene.records()).digests, [id("1")].into());
}

#[test]
fn unknown_is_not_unused() {
    let unproven = Scene::running().with(|scene| scene.unproven = true);
    let why = references(&unproven.desired(), &unproven.records()).unknown.unwrap();
    assert!(why.contains("api may declare more"), "{why}");
    let unread = Scene::running().with(|scene| scene.unknown_record = true);
    let why = references(&unread.desired(), &unread.records()).unknown.unwrap();
    assert!(why.contains("uid-1"), "{why}");
}

fn any_image() -> impl Strategy<Value = (i64, BTreeSet<u32>, bool, bool, bool)> {
    let parts = proptest::collection::btree_set(0_u32..12, 0..5);
    (NOW - 100..NOW + 20, parts, any::<bool>(), proptest::bool::weighted(0.2), proptest::bool::weighted(0.8))
}

fn any_goal() -> impl Strategy<Value = Goal> {
    (0_u64..150, 0_u64..15, proptest::bool::weighted(0.1)).prop_map(|(bytes, inodes, pool)| Goal {
        bytes,
        inodes,
        pool,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_collection_keeps_the_rules(
        images in proptest::collection::vec(any_image(), 0..10),
        goal in any_goal(),
        min_age in 0_u64..60,
    ) {
        let mut spared = Spared { min_age: Duration::from_secs(min_age), ..Spared::default() };
        let images: Vec<_> = images.into_iter().enumerate().map(|(n, (used, parts, referred, base, named))| {
            let mut made = image(&n.to_string(), used, &parts.into_iter().collect::<Vec<_>>());
            made.is_base = base;
            if referred && n % 2 == 0 {
                spared.names.insert(n.to_string());
            } else if referred {
                spared.digests.insert(id(&format!("{n}-index")));
            }
            if !named {
                made.names.clear();
            }
            made
        }).collect();
        let all = stored(&images);
        let plan = all.collect(&spared, goal, at(NOW));
        let find = |removal: &Removal| images.iter().find(|image| image.id == removal.id).unwrap();
        for removal in &plan {
            let image = find(removal);
            prop_assert!(!spared.refers_to(image) && !image.is_base);
            let age = at(NOW).duration_since(image.last_used).as_secs();
            prop_assert!(min_age == 0 || age >= i64::try_from(min_age).unwrap());
        }
        prop_assert!(plan.windows(2).all(|two| find(&two[0]).last_used <= find(&two[1]).last_used), "not in order");
        // What it frees is what the rest no longer takes, told by another way of counting.
        let gone: BTreeSet<&ImageDigest> = plan.iter().map(|removal| &removal.id).collect();
        let rest = stored(&images.iter().filter(|image| !gone.contains(&image.id)).cloned().collect::<Vec<_>>());
        let freed = plan.iter().map(|removal| removal.frees.bytes).sum::<u64>();
        prop_assert_eq!(freed, all.takes().bytes - rest.takes().bytes);
        // It stops as soon as it is enough, and not before there is nothing more.
        let sum = |plan: &[Removal]| plan.iter().fold((0, 0), |(bytes, inodes), it| (bytes + it.frees.bytes, inodes + it.frees.inodes));
        let enough = |plan: &[Removal]| {
            let (bytes, inodes) = sum(plan);
            bytes >= goal.bytes && inodes >= goal.inodes && !goal.pool
        };
        if !plan.is_empty() {
            prop_assert!(!enough(&plan[..plan.len() - 1]), "it goes on though it is enough");
        }
        if !goal.is_reached() && !enough(&plan) {
            prop_assert_eq!(rest.collect(&spared, Goal::EVERYTHING, at(NOW)), Vec::new(), "it stops though it is not enough");
        }
        // Carried out, with what it freed taken off the goal, it has nothing more to do.
        let (bytes, inodes) = sum(&plan);
        let left = Goal {
            bytes: goal.bytes.saturating_sub(bytes),
            inodes: goal.inodes.saturating_sub(inodes),
            pool: goal.pool,
        };
        prop_assert_eq!(rest.collect(&spared, left, at(NOW)), Vec::new());
    }
}
