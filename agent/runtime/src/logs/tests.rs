use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::shim::cri::{MAX_TEXT, Tag};
use crate::shim::time::rfc3339;

/// A record's stream, tag and text.
type Record = (Stream, Tag, Vec<u8>);

/// A log directory in the making.
struct Writer {
    dir: tempfile::TempDir,
    secs: u64,
}

impl Writer {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), secs: 1000 }
    }

    fn raw(&self, run: u64, seq: u64, bytes: &[u8]) {
        let path = self.dir.path().join(name(run, seq));
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
    }

    /// One second later than the one before.
    fn record(&mut self, seq: u64, (stream, tag, text): &Record) {
        let tag: &[u8] = if *tag == Tag::Full { b" F " } else { b" P " };
        let time = rfc3339(self.secs, 0);
        self.secs += 1;
        self.raw(1, seq, &[&time, &b" "[..], stream.name(), tag, text, b"\n"].concat());
    }

    fn out(&mut self, seq: u64, text: &str) {
        self.record(seq, &(Stream::Stdout, Tag::Full, text.into()));
    }

    fn log(&self) -> LogDir {
        LogDir::open(self.dir.path()).unwrap().unwrap()
    }

    fn reader(&self, options: &ReadOptions) -> LogReader {
        self.log().reader(1, options).unwrap()
    }
}

fn drain(reader: &mut LogReader) -> Vec<LogEvent> {
    let mut events = Vec::new();
    while let Some(event) = reader.next().unwrap() {
        events.push(event);
    }
    events
}

/// All there is, the unended begins of lines included.
fn all(mut reader: LogReader) -> Vec<LogEvent> {
    let mut events = drain(&mut reader);
    events.extend(reader.finish());
    events
}

fn texts(events: &[LogEvent]) -> Vec<String> {
    let text = |e: &LogEvent| match e {
        LogEvent::Line(line) => String::from_utf8_lossy(&line.text).into_owned(),
        LogEvent::Gap { files } => format!("gap {files}"),
        LogEvent::Damaged { bytes } => format!("damaged {bytes}"),
    };
    events.iter().map(text).collect()
}

#[test]
fn pieces_are_joined_by_stream() {
    let mut w = Writer::new();
    for record in [
        (Stream::Stdout, Tag::Partial, b"a".to_vec()),
        (Stream::Stderr, Tag::Full, b"x".to_vec()),
        (Stream::Stdout, Tag::Partial, b"b".to_vec()),
        (Stream::Stderr, Tag::Partial, b"y".to_vec()),
        (Stream::Stdout, Tag::Full, b"c".to_vec()),
    ] {
        w.record(0, &record);
    }
    let mut reader = w.reader(&ReadOptions::default());
    assert_eq!(texts(&drain(&mut reader)), ["x", "abc"]);
    let [LogEvent::Line(rest)] = &reader.finish()[..] else { panic!() };
    assert_eq!((rest.text.as_slice(), rest.complete, rest.stream), (&b"y"[..], false, Stream::Stderr));
    assert_eq!(rest.time.as_str(), "1970-01-01T00:16:43.000000000Z");
}

#[test]
fn a_follower_goes_on_over_rotation_and_removal() {
    let mut w = Writer::new();
    let mut reader = w.reader(&ReadOptions::default());
    assert_eq!(reader.next().unwrap(), None);
    w.out(0, "a");
    assert_eq!(texts(&drain(&mut reader)), ["a"]);
    w.out(0, "b");
    w.out(1, "c");
    std::fs::remove_file(w.dir.path().join("1-0.log")).unwrap();
    // Its descriptor still reads the removed file to its end.
    assert_eq!(texts(&drain(&mut reader)), ["b", "c"]);
    w.out(4, "d");
    std::fs::remove_file(w.dir.path().join("1-1.log")).unwrap();
    assert_eq!(texts(&drain(&mut reader)), ["gap 2", "d"]);
    assert_eq!(reader.next().unwrap(), None);
}

#[test]
fn a_record_in_the_making_is_waited_for() {
    let w = Writer::new();
    w.raw(1, 0, b"1970-01-01T00:16:40.000000000Z stdout F he");
    let mut reader = w.reader(&ReadOptions::default());
    assert_eq!(reader.next().unwrap(), None);
    w.raw(1, 0, b"llo\n");
    assert_eq!(texts(&drain(&mut reader)), ["hello"]);
}

#[test]
fn what_is_no_record_is_told_and_passed_over() {
    let mut w = Writer::new();
    w.raw(1, 0, b"nonsense\n");
    w.out(0, "a");
    w.raw(1, 0, &vec![b'x'; 3 << 20]);
    w.raw(1, 0, b"\n");
    w.out(0, "b");
    w.raw(1, 0, b"1970-01-01T00:16:40.000000000Z stdout F torn");
    w.out(1, "c");
    let found = texts(&all(w.reader(&ReadOptions::default())));
    assert_eq!(found, ["damaged 9", "a", "damaged 3145729", "b", "damaged 44", "c"]);
}

#[test]
fn halves_of_lines_are_not_joined_over_a_gap() {
    let mut w = Writer::new();
    w.record(0, &(Stream::Stdout, Tag::Partial, b"half".to_vec()));
    w.out(2, "other");
    let found = all(w.reader(&ReadOptions::default()));
    assert_eq!(texts(&found), ["half", "gap 1", "other"]);
}

#[test]
fn an_endless_line_comes_in_bounded_pieces() {
    let mut w = Writer::new();
    for _ in 0..200 {
        w.record(0, &(Stream::Stdout, Tag::Partial, vec![b'x'; MAX_TEXT]));
    }
    let mut reader = w.reader(&ReadOptions::default());
    let found = drain(&mut reader);
    assert_eq!(found.len(), 3);
    for event in &found {
        let LogEvent::Line(line) = event else { panic!() };
        assert!(line.text.len() <= MAX_LINE + MAX_TEXT && !line.complete);
    }
}

#[test]
fn planted_things_are_not_read() {
    let mut w = Writer::new();
    std::fs::write(w.dir.path().join("secret"), "1970-01-01T00:16:40.000000000Z stdout F secret\n").unwrap();
    std::os::unix::fs::symlink("secret", w.dir.path().join("1-0.log")).unwrap();
    std::fs::create_dir(w.dir.path().join("1-1.log")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        w.dir.path().join("1-2.log"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    w.out(3, "a");
    for tail in [None, Some(10)] {
        assert_eq!(texts(&all(w.reader(&ReadOptions { tail, since: None }))), ["a"]);
    }
}

#[test]
fn runs_are_listed_and_old_ones_pruned() {
    let w = Writer::new();
    for (run, seq) in [(2, 0), (9, 0), (10, 0), (10, 1)] {
        w.raw(run, seq, b"");
    }
    for other in
        ["x.log", "1.log", "01-0.log", "1-.log", "1-0.log.new", "-1-0.log", "99999999999999999999999-0.log"]
    {
        std::fs::write(w.dir.path().join(other), "").unwrap();
    }
    assert_eq!(w.log().runs().unwrap(), [2, 9, 10]);
    w.log().prune(2).unwrap();
    assert_eq!(w.log().runs().unwrap(), [9, 10]);
    assert!(w.dir.path().join("x.log").exists());
    assert!(LogDir::open(Path::new("/nonexistent")).unwrap().is_none());
}

#[test]
fn since_begins_at_its_time() {
    let mut w = Writer::new();
    for n in 0..100_u64 {
        w.out(n / 10, &n.to_string());
    }
    for from in [0, 1, 9, 10, 11, 55, 99, 100, 1000] {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + from);
        let found = texts(&all(w.reader(&ReadOptions { since: Some(since), tail: None })));
        let want: Vec<String> = (from..100).map(|n| n.to_string()).collect();
        assert_eq!(found, want, "since {from}");
        let found = texts(&all(w.reader(&ReadOptions { since: Some(since), tail: Some(5) })));
        assert_eq!(found, want[want.len().saturating_sub(5)..], "since {from}, last 5");
    }
}

#[test]
fn a_tail_of_a_large_log_reads_its_end_only() {
    let mut w = Writer::new();
    for n in 0..20_000_u32 {
        w.out(u64::from(n / 10_000), &format!("line {n}"));
    }
    // Were the rest read, it would show.
    let path = w.dir.path().join("1-0.log");
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"no record").unwrap();
    let found = texts(&all(w.reader(&ReadOptions { tail: Some(9999), since: None })));
    assert_eq!(found.len(), 9999);
    assert_eq!((found[0].as_str(), found[9998].as_str()), ("line 10001", "line 19999"));
    let mut reader = w.reader(&ReadOptions { tail: Some(0), since: None });
    assert_eq!(reader.next().unwrap(), None);
    w.out(1, "later");
    assert_eq!(texts(&drain(&mut reader)), ["later"]);
}

fn records() -> impl Strategy<Value = Vec<(Record, bool)>> {
    let text = prop_oneof![8 => 0..20_usize, 1 => 15_000..MAX_TEXT];
    let record = (any::<bool>(), prop::bool::weighted(0.6), text).prop_map(|(err, full, len)| {
        let stream = if err { Stream::Stderr } else { Stream::Stdout };
        (stream, if full { Tag::Full } else { Tag::Partial }, vec![b'x'; len])
    });
    prop::collection::vec((record, prop::bool::weighted(0.2)), 0..60)
}

proptest! {
    #[test]
    fn a_tail_is_the_end_of_all(records in records(), tail in 0..30_usize) {
        let mut w = Writer::new();
        let mut seq = 0;
        for (i, ((stream, tag, text), next_file)) in records.iter().enumerate() {
            seq += u64::from(*next_file);
            let text = [format!("{i}:").as_bytes(), text].concat();
            w.record(seq, &(*stream, *tag, text));
        }
        let everything = texts(&all(w.reader(&ReadOptions::default())));
        // Lines that were never ended come last, as they are not in order of their ends.
        let mut reader = w.reader(&ReadOptions { tail: Some(tail), since: None });
        let (ended, unended) = (texts(&drain(&mut reader)), texts(&reader.finish()));
        let found: Vec<String> = ended.into_iter().chain(unended).collect();
        prop_assert!(found.len() <= tail);
        prop_assert_eq!(found.len(), tail.min(everything.len()));
        let mut rest = everything.iter();
        for line in &found {
            prop_assert!(rest.any(|l| l == line), "a whole line, in order: {line}");
        }
    }
}

#[test]
fn the_last_words_are_the_last_lines_within_both_bounds() {
    let mut log = Writer::new();
    let words = |log: &Writer, lines, bytes| {
        String::from_utf8(log.log().last_words(1, lines, bytes).unwrap()).unwrap()
    };
    assert_eq!(words(&log, 80, 2048), "");
    log.out(0, "one");
    log.record(0, &(Stream::Stderr, Tag::Full, b"two".to_vec()));
    log.out(1, "three");
    assert_eq!(words(&log, 80, 2048), "one\ntwo\nthree\n", "over files and streams");
    assert_eq!(words(&log, 2, 2048), "two\nthree\n");
    assert_eq!(words(&log, 80, 7), "\nthree\n");
    log.record(1, &(Stream::Stdout, Tag::Partial, b"pie".to_vec()));
    log.record(1, &(Stream::Stdout, Tag::Partial, b"ces".to_vec()));
    assert_eq!(words(&log, 1, 2048), "pieces", "a line that was never ended is one");
    assert_eq!(words(&log, 2, 2048), "three\npieces");
    log.raw(1, 1, b"no record\n");
    assert_eq!(words(&log, 1, 2048), "pieces");
    // A flood: its end is read, and no more.
    log.record(2, &(Stream::Stdout, Tag::Partial, vec![b'x'; MAX_TEXT]));
    for _ in 0..100 {
        log.record(2, &(Stream::Stdout, Tag::Partial, vec![b'x'; MAX_TEXT]));
    }
    assert_eq!(words(&log, 80, 2048), "x".repeat(2048));
}
