use super::*;

fn at(seconds: u64) -> Mono {
    Mono::from_nanos((1_000_000 + seconds) * 1_000_000_000)
}

fn lease(holder: &str, version: &str) -> Lease {
    Lease { holder: holder.to_owned(), duration: LEASE_DURATION, version: version.to_owned(), transitions: 3 }
}

fn is(holder: &str, version: &str) -> LeaseAnswer {
    LeaseAnswer::Is(lease(holder, version))
}

fn update(version: &str, transitions: u32, acquired: bool) -> LeaseAct {
    LeaseAct::Update { version: version.to_owned(), transitions, acquired }
}

fn keeper() -> LeaseKeeper {
    LeaseKeeper::new("me", at(0))
}

#[test]
fn the_first_agent_makes_the_lease_and_renews_it() {
    let mut keeper = keeper();
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(0)));
    keeper.heard(LeaseAnswer::NotFound, at(0), 0.5);
    assert_eq!(keeper.next(), (&LeaseAct::Create, at(0)));
    assert_eq!(keeper.standing(), &Standing::Unknown);
    keeper.heard(is("me", "1"), at(0), 0.5);
    assert_eq!(keeper.standing(), &Standing::Held);
    assert_eq!(keeper.next(), (&update("1", 3, false), at(15)));
    keeper.heard(is("me", "2"), at(15), 0.5);
    assert_eq!(keeper.next(), (&update("2", 3, false), at(30)));
}

#[test]
fn renewals_are_spread_about_what_is_said() {
    for (chance, millis) in [(0.0, 14_250), (1.0, 15_750), (7.0, 15_750)] {
        let mut keeper = keeper();
        keeper.heard(LeaseAnswer::NotFound, at(0), chance);
        keeper.heard(is("me", "1"), at(0), chance);
        assert_eq!(keeper.next().1, at(0).plus(Duration::from_millis(millis)));
    }
}

#[test]
fn the_same_agent_takes_its_lease_up_again_at_once() {
    let mut keeper = keeper();
    keeper.heard(is("me", "7"), at(1), 0.5);
    assert_eq!(keeper.standing(), &Standing::Held);
    assert_eq!(keeper.next(), (&update("7", 3, false), at(1)));
}

#[test]
fn a_live_holder_is_left_alone_until_it_stops_renewing() {
    let mut keeper = keeper();
    keeper.heard(is("other", "1"), at(0), 0.5);
    assert_eq!(keeper.standing(), &Standing::HeldBy("other".to_owned()));
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(15)));
    // It is renewed: whatever its times say, it lives.
    keeper.heard(is("other", "2"), at(15), 0.5);
    keeper.heard(is("other", "2"), at(30), 0.5);
    keeper.heard(is("other", "2"), at(45), 0.5);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(60)));
    keeper.heard(is("other", "2"), at(59), 0.5);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(60)));
    keeper.heard(is("other", "2"), at(60), 0.5);
    assert_eq!(keeper.next(), (&update("2", 4, true), at(60)));
    assert_eq!(keeper.standing(), &Standing::HeldBy("other".to_owned()), "until it is taken");
    keeper.heard(is("me", "3"), at(60), 0.5);
    assert_eq!(keeper.standing(), &Standing::Held);
    assert_eq!(keeper.next().1, at(75));
}

#[test]
fn a_lease_that_was_given_back_is_taken_at_once() {
    let mut keeper = keeper();
    keeper.heard(is("", "5"), at(0), 0.5);
    assert_eq!(keeper.next(), (&update("5", 4, true), at(0)));
}

#[test]
fn of_two_who_take_it_one_wins() {
    let mut keeper = keeper();
    keeper.heard(is("", "5"), at(0), 0.5);
    keeper.heard(LeaseAnswer::Conflict, at(0), 0.0);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(0)));
    keeper.heard(is("other", "6"), at(0), 0.5);
    assert_eq!(keeper.standing(), &Standing::HeldBy("other".to_owned()));
}

#[test]
fn the_holder_goes_on_while_the_server_is_away_and_gives_way_to_another_holder() {
    let mut keeper = keeper();
    keeper.heard(is("me", "1"), at(0), 0.5);
    keeper.heard(is("me", "2"), at(0), 0.5);
    for round in 1..1000 {
        keeper.heard(LeaseAnswer::Failed(None), at(15 * round), 0.5);
        assert_eq!(keeper.standing(), &Standing::Held);
        assert_eq!(keeper.next().0, &LeaseAct::Get);
    }
    keeper.heard(is("other", "9"), at(20_000), 0.5);
    assert_eq!(keeper.standing(), &Standing::HeldBy("other".to_owned()));
}

#[test]
fn a_server_that_asks_for_patience_gets_it() {
    let mut keeper = keeper();
    keeper.heard(LeaseAnswer::Failed(Some(Duration::from_secs(60))), at(0), 0.0);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(60)));
    keeper.heard(LeaseAnswer::Failed(None), at(0), 0.0);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(5)));
    keeper.heard(LeaseAnswer::Failed(None), at(0), 1.0);
    assert_eq!(keeper.next(), (&LeaseAct::Get, at(10)));
}

#[test]
fn a_lease_that_somebody_deleted_is_made_again() {
    let mut keeper = keeper();
    keeper.heard(is("me", "1"), at(0), 0.5);
    keeper.heard(LeaseAnswer::NotFound, at(15), 0.5);
    assert_eq!(keeper.next(), (&LeaseAct::Create, at(15)));
    assert_eq!(keeper.standing(), &Standing::Held);
}
