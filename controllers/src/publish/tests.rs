use super::*;

const LIMITS: PublishLimits = PublishLimits {
    all: (5, Duration::from_millis(100)),
    each: (2, Duration::from_secs(1)),
    settle: Duration::from_millis(50),
};

fn uid(name: &str) -> Uid {
    Uid::new(name).unwrap()
}

fn at(millis: u64) -> Mono {
    Mono::from_nanos((1_000_000 + millis) * 1_000_000)
}

fn outbox() -> Outbox<&'static str> {
    Outbox::new(LIMITS)
}

fn put(outbox: &mut Outbox<&'static str>, name: &str, state: &'static str, now: Mono) {
    let mark = state.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    outbox.put(&uid(name), Mark(mark), state, now);
}

fn write(name: &str, state: &'static str) -> Publish<&'static str> {
    Publish::Write(uid(name), state)
}

#[test]
fn the_newest_state_wins_and_is_written_once() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "creating", at(0));
    assert_eq!(outbox.next(at(0)), Publish::Wait(Some(at(50))));
    put(&mut outbox, "a", "running", at(20));
    assert_eq!(outbox.next(at(50)), write("a", "running"));
    assert_eq!(outbox.next(at(50)), Publish::Wait(None), "one at a time");
    outbox.answered(Answer::Taken, at(60));
    assert_eq!(outbox.next(at(60)), Publish::Wait(None));
    put(&mut outbox, "a", "running", at(70));
    assert_eq!(outbox.next(at(5000)), Publish::Wait(None), "it is there already");
}

#[test]
fn what_changes_back_before_it_was_written_is_not() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "running", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "running"));
    outbox.answered(Answer::Taken, at(50));
    put(&mut outbox, "a", "failed", at(60));
    put(&mut outbox, "a", "running", at(70));
    assert_eq!((outbox.next(at(500)), outbox.waiting()), (Publish::Wait(None), 0));
}

#[test]
fn what_changes_while_it_is_written_is_written_again() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "creating", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "creating"));
    put(&mut outbox, "a", "running", at(55));
    outbox.answered(Answer::Taken, at(60));
    assert_eq!(outbox.next(at(60)), write("a", "running"));
    // There and back again: what is on its way is what is wanted.
    put(&mut outbox, "a", "failed", at(61));
    put(&mut outbox, "a", "running", at(62));
    outbox.answered(Answer::Taken, at(63));
    assert_eq!(outbox.next(at(5000)), Publish::Wait(None));
}

#[test]
fn a_server_that_was_away_gets_the_last_state_alone() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "creating", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "creating"));
    put(&mut outbox, "a", "creating", at(52));
    outbox.answered(Answer::Away(Duration::from_secs(30)), at(100));
    for (n, state) in ["running", "failed", "running again"].into_iter().enumerate() {
        put(&mut outbox, "a", state, at(200 + u64::try_from(n).unwrap()));
    }
    assert_eq!(outbox.next(at(20_000)), Publish::Wait(Some(at(30_100))));
    assert_eq!(outbox.next(at(30_100)), write("a", "running again"));
    outbox.answered(Answer::Taken, at(30_101));
    assert_eq!(outbox.next(at(99_000)), Publish::Wait(None));
}

#[test]
fn what_did_not_arrive_is_tried_again_though_nothing_changed() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "running", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "running"));
    // Said once more while it is on its way.
    put(&mut outbox, "a", "running", at(55));
    outbox.answered(Answer::Away(Duration::from_secs(1)), at(60));
    assert_eq!(outbox.next(at(1060)), write("a", "running"));
}

#[test]
fn one_that_is_refused_holds_up_nobody_else() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "running", at(0));
    put(&mut outbox, "b", "running", at(1));
    assert_eq!(outbox.next(at(60)), write("a", "running"));
    outbox.answered(Answer::Refused(Duration::from_secs(10)), at(60));
    assert_eq!(outbox.next(at(60)), write("b", "running"));
    outbox.answered(Answer::Taken, at(60));
    assert_eq!(outbox.next(at(61)), Publish::Wait(Some(at(10_060))));
    assert_eq!(outbox.next(at(10_060)), write("a", "running"));
}

#[test]
fn what_is_gone_is_not_written_again() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "running", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "running"));
    put(&mut outbox, "a", "failed", at(55));
    outbox.answered(Answer::Gone, at(60));
    assert_eq!((outbox.next(at(5000)), outbox.waiting()), (Publish::Wait(None), 0));
    put(&mut outbox, "b", "running", at(6000));
    outbox.forget(&uid("b"));
    assert_eq!(outbox.next(at(7000)), Publish::Wait(None));
}

#[test]
fn an_object_that_changes_all_the_time_is_written_at_its_rate() {
    let mut outbox = outbox();
    let mut written = Vec::new();
    let states: Vec<&'static str> = vec!["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    for tick in 0..100_u64 {
        put(&mut outbox, "a", states[usize::try_from(tick % 10).unwrap()], at(tick * 50));
        if let Publish::Write(..) = outbox.next(at(tick * 50)) {
            written.push(tick * 50);
            outbox.answered(Answer::Taken, at(tick * 50));
        }
    }
    // Each waits for the next one a little, and for its turn.
    assert_eq!(written, [50, 150, 1050, 2150, 3050, 4150]);
}

#[test]
fn many_objects_go_at_the_common_rate_in_their_order() {
    let mut outbox = outbox();
    let names: Vec<String> = (0..10).map(|n| format!("o{n}")).collect();
    for name in &names {
        put(&mut outbox, name, "running", at(0));
    }
    let mut written = Vec::new();
    for millis in 50..1000 {
        if let Publish::Write(uid, _) = outbox.next(at(millis)) {
            written.push((millis, uid.as_str().to_owned()));
            outbox.answered(Answer::Taken, at(millis));
        }
    }
    let order: Vec<_> = written.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(order, names);
    assert_eq!(written.iter().filter(|(millis, _)| *millis < 60).count(), 5);
    assert_eq!(written.last().unwrap().0, 550);
}

#[test]
fn a_doubted_state_is_written_again() {
    let mut outbox = outbox();
    put(&mut outbox, "a", "running", at(0));
    assert_eq!(outbox.next(at(50)), write("a", "running"));
    outbox.answered(Answer::Taken, at(50));
    outbox.doubt(&uid("a"));
    put(&mut outbox, "a", "running", at(60));
    assert_eq!(outbox.next(at(200)), write("a", "running"));
}

#[test]
fn what_the_server_has_already_is_not_written() {
    let mut outbox = outbox();
    outbox.is_there(&uid("a"), Mark(u64::from(b'x')), at(0));
    put(&mut outbox, "a", "x", at(0));
    assert_eq!(outbox.next(at(5000)), Publish::Wait(None));
    put(&mut outbox, "a", "y", at(5000));
    assert_eq!(outbox.next(at(5050)), write("a", "y"));
}
