use super::*;

fn entry(flags: u64, sectors: u64, mark: Option<&str>) -> Entry {
    Entry::new(flags, 0, sectors, mark.map(str::to_owned))
}

/// mkfs, its flush, the beginning, then `rounds` times: two writes, a flush, a write past the cache, a mark.
fn log(rounds: usize) -> Vec<Entry> {
    let mut log = vec![entry(0, 8, None), entry(flag::FLUSH, 0, None), entry(flag::MARK, 0, Some(BEGIN))];
    for round in 0..rounds {
        log.extend([entry(0, 8, None), entry(0, 8, None), entry(flag::FLUSH, 0, None)]);
        log.extend([entry(flag::FUA, 1, None), entry(flag::MARK, 0, Some(&format!("+{round}")))]);
    }
    log
}

#[test]
fn cuts_come_in_pairs_at_flushes_and_are_the_same_for_a_seed() {
    let log = log(50);
    let cuts = choose(&log, 40, 7);
    assert_eq!(cuts.len(), 40);
    assert_eq!(cuts, choose(&log, 40, 7));
    assert_ne!(cuts, choose(&log, 40, 8));
    assert!(cuts.windows(2).all(|pair| pair[0].after < pair[1].after), "{cuts:?}");
    for cut in &cuts {
        match cut.moment {
            Moment::Flushed => assert!(log[cut.after - 1].has(flag::FLUSH | flag::FUA), "{cut:?}"),
            // What comes next is the last write before a flush, or before a write past the cache.
            Moment::Unflushed => assert!(
                log[cut.after].sectors > 0 && log[cut.after + 1..][..2].iter().any(|entry| entry.has(3)),
                "{cut:?}"
            ),
            Moment::Between => panic!("{cut:?}"),
        }
    }
}

#[test]
fn a_short_log_gives_all_its_moments_once_and_none_before_the_beginning() {
    let log = log(2);
    let cuts = choose(&log, 1000, 1);
    let all: Vec<_> = cuts.iter().map(|cut| cut.after).collect();
    assert_eq!(all, (3..=log.len()).collect::<Vec<_>>());
}

#[test]
fn marks_say_what_is_certain() {
    assert_eq!(certain(["begin", "+a", "+b", "-a", "+c", "dm-log-writes-end"]), ["b", "c"]);
    assert_eq!(certain(["-a"]), [""; 0]);
}

#[test]
fn marks_say_what_the_storage_is_at() {
    assert_eq!(step(["begin"].into_iter()), "between");
    assert_eq!(
        step(["~pull=image:a:1", "~put=ledger:x=1", "+ledger:x=1", "-records:y=2"].into_iter()),
        "pull"
    );
    assert_eq!(step(["~pull=image:a:1", "+image:a:1", "~take=ledger:x=gone"].into_iter()), "between");
    assert_eq!(step(["~commit=image:b", "+image:b", "-volume:c/1", "+ledger:x=2"].into_iter()), "remove");
}

#[test]
fn what_is_only_begun_is_not_certain() {
    let marks = ["~pull=image:a:1", "+image:a:1", "~put=ledger:x=1", "~fill=volume:c/1"];
    assert_eq!(certain(marks), ["image:a:1"]);
    assert_eq!(begun(marks), ["ledger:x=1", "volume:c/1"]);
}
