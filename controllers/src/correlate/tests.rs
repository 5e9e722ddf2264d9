use super::*;

fn at(seconds: u64) -> (Mono, Timestamp) {
    let seconds = 1_000_000 + seconds;
    let wall = Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
    (Mono::from_nanos(seconds * 1_000_000_000), wall)
}

fn what(name: &str, reason: &str, message: &str) -> Occurrence {
    Occurrence {
        about: About {
            api_version: "stower.dev/v1alpha1".to_owned(),
            kind: "Container".to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
        },
        warning: false,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn observe(correlator: &mut Correlator, what: Occurrence, seconds: u64) -> EventAct {
    let (now, wall) = at(seconds);
    correlator.observe(what, now, wall)
}

fn correlator() -> Correlator {
    Correlator::new(EventLimits::default())
}

#[test]
fn the_first_is_made_and_the_same_again_is_counted() {
    let mut correlator = correlator();
    let EventAct::Create(first) = observe(&mut correlator, what("web", "Started", "started"), 0) else {
        panic!("it is new")
    };
    assert_eq!((first.count, first.first, first.last), (1, at(0).1, at(0).1));
    assert!(first.name.starts_with("web."), "{}", first.name);
    let EventAct::Count(second) = observe(&mut correlator, what("web", "Started", "started"), 7) else {
        panic!("it is known")
    };
    assert_eq!(second, WrittenEvent { count: 2, last: at(7).1, ..first });
}

#[test]
fn others_are_not_counted_with_it() {
    let mut correlator = correlator();
    let mut warning = what("web", "Started", "started");
    warning.warning = true;
    let mut names = Vec::new();
    for other in [
        what("web", "Started", "started"),
        warning,
        what("web", "Killing", "started"),
        what("web", "Started", "started again"),
        what("db", "Started", "started"),
    ] {
        let EventAct::Create(made) = observe(&mut correlator, other, 0) else { panic!("it is new") };
        names.push(made.name);
    }
    names.dedup();
    assert_eq!(names.len(), 5, "each has its name, though all came at one moment");
}

#[test]
fn those_that_are_alike_become_one_from_the_tenth_on() {
    let mut correlator = correlator();
    for n in 0..9 {
        let made = observe(&mut correlator, what("web", "Failed", &format!("no. {n}")), n);
        assert!(matches!(made, EventAct::Create(_)), "{made:?}");
    }
    let EventAct::Create(tenth) = observe(&mut correlator, what("web", "Failed", "no. 9"), 9) else {
        panic!("the first that stands for many is made")
    };
    assert_eq!(tenth.what.message, "(combined from similar events): no. 9");
    let EventAct::Count(next) = observe(&mut correlator, what("web", "Failed", "no. 10"), 10) else {
        panic!("the next is counted with it")
    };
    assert_eq!((next.name, next.count), (tenth.name, 2));
    assert_eq!(next.what.message, "(combined from similar events): no. 10");
    // One of the first is still itself.
    let EventAct::Count(first) = observe(&mut correlator, what("web", "Failed", "no. 0"), 11) else {
        panic!("it is known")
    };
    assert_eq!((first.what.message.as_str(), first.count), ("no. 0", 2));
}

#[test]
fn what_is_rare_is_not_combined() {
    let mut correlator =
        Correlator::new(EventLimits { each: (1000, Duration::from_secs(1)), ..EventLimits::default() });
    for n in 0..30 {
        let made = observe(&mut correlator, what("web", "Failed", &format!("no. {n}")), n * 601);
        assert!(matches!(&made, EventAct::Create(made) if !made.what.message.starts_with('(')), "{made:?}");
    }
}

#[test]
fn one_object_tells_so_much_and_holds_up_no_other() {
    let mut correlator = correlator();
    let told = |act: &EventAct| !matches!(act, EventAct::Limited);
    let acts: Vec<_> =
        (0..60).map(|n| observe(&mut correlator, what("web", "BackOff", "back-off"), n)).collect();
    assert_eq!(acts.iter().filter(|act| told(act)).count(), 25);
    assert!(told(&observe(&mut correlator, what("db", "BackOff", "back-off"), 60)));
    assert!(!told(&observe(&mut correlator, what("web", "Killing", "stop"), 61)), "its other Events neither");
    // Then one each five minutes, with the true count.
    let EventAct::Count(later) = observe(&mut correlator, what("web", "BackOff", "back-off"), 301) else {
        panic!("one more may be told")
    };
    assert_eq!(later.count, 61);
    assert!(!told(&observe(&mut correlator, what("web", "BackOff", "back-off"), 302)));
}

#[test]
fn memory_is_bounded_and_keeps_what_was_used_last() {
    let mut correlator = Correlator::new(EventLimits { remembered: 3, ..EventLimits::default() });
    for (n, name) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
        observe(&mut correlator, what(name, "Started", "started"), u64::try_from(n).unwrap());
    }
    assert_eq!(
        (correlator.told.items.len(), correlator.groups.items.len(), correlator.buckets.items.len()),
        (3, 3, 3)
    );
    let act = |correlator: &mut Correlator, name| observe(correlator, what(name, "Started", "started"), 9);
    assert!(matches!(act(&mut correlator, "a"), EventAct::Count(_)));
    assert!(matches!(act(&mut correlator, "b"), EventAct::Create(_)), "it was forgotten");
}

#[test]
fn names_and_messages_have_bounds() {
    let mut correlator = correlator();
    let long = what(&"n".repeat(253), "Failed", &"ö".repeat(1000));
    let EventAct::Create(made) = observe(&mut correlator, long, 0) else { panic!("it is new") };
    assert_eq!(made.what.message.len(), 1024);
    assert!(made.name.len() <= 253, "{}", made.name.len());
}
