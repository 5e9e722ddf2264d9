use proptest::prelude::*;

use super::args::{Parsed, parse};
use super::cri::{Lines, MAX_RECORD, MAX_TEXT, Records, Step, Stream, Tag, file_name, rotate};
use super::exit::{Ended, Exit, MAX_LEN};
use super::frame::{Header, Phase, State, Stop, StopLater};
use super::time::{decimal, number, parse_rfc3339, rfc3339};
use super::{CONTRACT, ShimArgs};

fn args() -> ShimArgs {
    ShimArgs {
        init_pid: 4_000_000,
        run: u64::MAX,
        boot_id: "0f0f0f0f-0000-4000-8000-000000000000".into(),
        started_at: "2026-01-02T03:04:05.000000006Z".into(),
        log_max_bytes: 10 << 20,
        log_max_files: 5,
        log_block: true,
        cgroup_kill: true,
        stdin: super::Stdin::Terminal,
    }
}

fn bytes(argv: &[std::ffi::OsString]) -> Vec<&[u8]> {
    argv.iter().skip(1).map(|a| a.as_encoded_bytes()).collect()
}

#[test]
fn the_shim_reads_what_the_library_writes() {
    let args = args();
    let argv = args.to_argv();
    let read = parse(bytes(&argv).into_iter()).unwrap();
    let want = Parsed {
        init_pid: args.init_pid,
        run: args.run,
        boot_id: args.boot_id.as_bytes(),
        started_at: args.started_at.as_bytes(),
        log_max_bytes: args.log_max_bytes,
        log_max_files: 5,
        log_block: true,
        cgroup_kill: true,
        stdin: 2,
    };
    assert_eq!(read, want);
    assert_eq!(u64::from(CONTRACT), super::args::CONTRACT);
}

#[test]
fn keys_of_a_newer_release_are_ignored_and_missing_ones_refused() {
    let argv = args().to_argv();
    let argv = bytes(&argv);
    let newer = argv.iter().copied().chain([&b"new-key=1"[..]]);
    assert!(parse(newer).is_some());
    // The last three have a default.
    for left_out in 0..argv.len() - 3 {
        let rest = argv.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, a)| *a);
        assert!(parse(rest).is_none(), "without argument {left_out}");
    }
    assert!(parse([&b"2"[..]].into_iter().chain(argv.iter().copied().skip(1))).is_none());
}

#[test]
fn times_are_those_of_a_calendar() {
    let text = |secs, nanos| String::from_utf8(rfc3339(secs, nanos).to_vec()).unwrap();
    // As `date -u -d @SECS +%FT%T.%NZ` says.
    assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(text(951_827_696, 1), "2000-02-29T12:34:56.000000001Z");
    assert_eq!(text(1_767_225_599, 999_999_999), "2025-12-31T23:59:59.999999999Z");
    assert_eq!(text(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z");
    assert_eq!(text(u64::MAX, 0), "9999-12-31T23:59:59.000000000Z");
    for wrong in
        ["2026-02-30T00:00:00.000000000Z", "2026-01-01T24:00:00.000000000Z", "2026-01-01T00:00:00Z", ""]
    {
        assert_eq!(parse_rfc3339(wrong.as_bytes()), None, "{wrong}");
    }
}

#[test]
fn wait_statuses_become_codes() {
    assert_eq!(Ended::from_status(7 << 8), Ended { code: 7, signal: 0 });
    assert_eq!(Ended::from_status(9), Ended { code: 137, signal: 9 });
    // With a core dump.
    assert_eq!(Ended::from_status(0x80 | 11), Ended { code: 139, signal: 11 });
}

#[test]
fn an_exit_record_is_json_whatever_the_arguments_held() {
    let finished_at = rfc3339(1_767_225_599, 5);
    let exit = Exit {
        boot_id: b"a-1\"},{\\\n",
        run: u64::MAX,
        ended: Ended { code: 139, signal: 11 },
        started_at: &[b'x'; 600],
        finished_at: &finished_at,
        dropped_lines: u64::MAX,
        ran_ms: 1234,
    };
    let mut out = [0; MAX_LEN];
    let len = exit.write(&mut out);
    let read: crate::ExitRecord = serde_json::from_slice(&out[..len]).unwrap();
    assert_eq!((read.boot_id.as_str(), read.run, read.exit_code, read.signal), ("a-1", u64::MAX, 139, 11));
    assert_eq!((read.dropped_lines, read.ran_ms), (u64::MAX, Some(1234)));
    assert_eq!(read.finished_at, "2025-12-31T23:59:59.000000005Z");
}

#[test]
fn a_line_of_just_the_limit_is_whole() {
    let mut buf = vec![0; 2 * MAX_TEXT];
    let mut lines = Lines::new();
    lines.space(&mut buf)[..MAX_TEXT].fill(b'x');
    lines.filled(MAX_TEXT);
    assert_eq!(lines.next(&buf), None, "its end may come next");
    lines.space(&mut buf)[0] = b'\n';
    lines.filled(1);
    assert_eq!(lines.next(&buf).map(|(tag, text)| (tag, text.len())), Some((Tag::Full, MAX_TEXT)));
    assert!(lines.is_empty());
}

#[test]
fn rotation_keeps_records_whole() {
    let pending = b"aaa\nbbbb\n";
    assert_eq!(rotate(pending, 0, 100), Step::Write(9));
    assert_eq!(rotate(pending, 91, 100), Step::Write(9));
    assert_eq!(rotate(pending, 92, 100), Step::Write(4));
    assert_eq!(rotate(pending, 97, 100), Step::NextFile);
    assert_eq!(rotate(pending, 200, 100), Step::NextFile);
    assert_eq!(rotate(pending, 0, 2), Step::Write(4), "a record longer than a file is written all the same");
}

#[test]
fn file_names_end_with_zero() {
    assert!(file_name(12, 3).starts_with(b"12-3.log\0"));
    assert!(file_name(u64::MAX, u64::MAX).ends_with(b".log\0"));
}

/// The bytes of a pipe as records and back.
fn through(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut buf = vec![0; 2 * MAX_TEXT];
    let mut lines = Lines::new();
    let mut all = Vec::new();
    let mut take = |(tag, text): (Tag, &[u8])| {
        assert!(text.len() <= MAX_TEXT && !text.contains(&b'\n'));
        all.extend_from_slice(text);
        all.extend(matches!(tag, Tag::Full).then_some(b'\n'));
    };
    for chunk in chunks {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let space = lines.space(&mut buf);
            let n = rest.len().min(space.len());
            assert!(n > 0, "there is always room");
            space[..n].copy_from_slice(&rest[..n]);
            lines.filled(n);
            rest = &rest[n..];
            while let Some(next) = lines.next(&buf) {
                take(next);
            }
        }
    }
    if let Some(rest) = lines.rest(&buf) {
        take(rest);
    }
    all
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
        1 => (any::<u8>(), 0..3 * MAX_TEXT).prop_map(|(byte, n)| vec![byte; n]),
        1 => (MAX_TEXT - 2..MAX_TEXT + 3).prop_map(|n| [vec![b'x'; n], vec![b'\n']].concat()),
    ]
}

/// What a stream says in one go: pieces of a line, the last one with its end.
#[derive(Debug, Clone)]
struct Said {
    stderr: bool,
    pieces: u8,
    /// From which piece on it is dropped.
    dropped_from: u8,
}

fn said() -> impl Strategy<Value = Said> {
    (any::<bool>(), 1..4_u8, 0..8_u8).prop_map(|(stderr, pieces, dropped_from)| Said {
        stderr,
        pieces,
        dropped_from,
    })
}

proptest! {
    #[test]
    fn no_byte_of_a_pipe_is_lost(chunks in prop::collection::vec(chunk(), 0..12)) {
        prop_assert!(through(&chunks) == chunks.concat());
    }

    #[test]
    fn numbers_and_times_survive(n: u64, secs in 0..253_402_300_800_u64, nanos in 0..1_000_000_000_u32) {
        prop_assert_eq!(number(decimal(n, &mut [0; 20])), Some(n));
        prop_assert_eq!(parse_rfc3339(&rfc3339(secs, nanos)), Some((secs, nanos)));
    }

    #[test]
    fn times_sort_as_text(a in 0..253_402_300_800_u64, b in 0..253_402_300_800_u64, n in 0..1_000_000_000_u32) {
        prop_assert_eq!(a.cmp(&b), rfc3339(a, n).cmp(&rfc3339(b, n)));
    }

    #[test]
    fn frames_survive(version: u16, kind: u16, len: u32, signal in 1..65_u32, grace_ms: u64, run: u64, extra: Vec<u8>) {
        let header = Header { version, kind, len };
        prop_assert_eq!(Header::decode(header.encode()), header);
        let stop = Stop { signal, grace_ms };
        prop_assert_eq!(Stop::decode(&[&stop.encode()[..], &extra].concat()), Some(stop));
        prop_assert_eq!(Stop::decode(&stop.encode()[..Stop::LEN - 1]), None);
        let state = State {
            run, init_pid: signal, phase: Phase::Stopping, exit_code: 1, stop_ms: grace_ms, dropped_lines: run,
            signal_ms: grace_ms,
        };
        prop_assert_eq!(State::decode(&[&state.encode()[..], &extra].concat()), Some(state));
        // The first release's answer, in which no signal waits.
        prop_assert_eq!(State::decode(&state.encode()[..36]), Some(State { signal_ms: 0, ..state }));
        prop_assert_eq!(State::decode(&state.encode()[..35]), None);
        let later = StopLater { stop, signal_ms: run };
        prop_assert_eq!(StopLater::decode(&[&later.encode()[..], &extra].concat()), Some(later));
        prop_assert_eq!(StopLater::decode(&later.encode()[..StopLater::LEN - 1]), None);
    }

    #[test]
    fn no_file_grows_beyond_its_size(
        lens in prop::collection::vec(0..300_usize, 1..40), max in 1..2000_u64,
    ) {
        let pending: Vec<u8> = lens.iter().flat_map(|&n| [vec![b'x'; n], vec![b'\n']].concat()).collect();
        let (mut files, mut size, mut done) = (vec![0_usize], 0_u64, 0);
        while done < pending.len() {
            match rotate(&pending[done..], size, max) {
                Step::NextFile => {
                    prop_assert!(size > 0, "no file stays empty");
                    files.push(0);
                    size = 0;
                }
                Step::Write(n) => {
                    prop_assert!(n > 0 && pending[done + n - 1] == b'\n');
                    let records = pending[done..done + n].iter().filter(|&&c| c == b'\n').count();
                    size += u64::try_from(n).unwrap();
                    prop_assert!(size <= max || records == 1);
                    *files.last_mut().unwrap() += n;
                    done += n;
                }
            }
        }
        prop_assert_eq!(files.iter().sum::<usize>(), pending.len());
    }

    #[test]
    fn a_dropped_line_is_counted_and_never_joined(lines in prop::collection::vec(said(), 0..30)) {
        let time = rfc3339(1, 2);
        let mut buf = vec![0; 400 * 64 + MAX_RECORD];
        let mut records = Records::new();
        let mut dropped = 0;
        let mut want: [Vec<String>; 2] = [Vec::new(), Vec::new()];
        let mut log = Vec::new();
        for (i, Said { stderr, pieces, dropped_from }) in lines.iter().enumerate() {
            let stream = if *stderr { Stream::Stderr } else { Stream::Stdout };
            let mut text = String::new();
            for piece in 0..*pieces {
                let tag = if piece + 1 == *pieces { Tag::Full } else { Tag::Partial };
                if piece == *dropped_from {
                    records.drop_text(stream, tag);
                } else {
                    // After a dropped piece the log may be writable again; the rest of the line is dropped all the same.
                    records.push(&mut buf, &time, stream, tag, format!("{i}.{piece}").as_bytes());
                    if piece < *dropped_from {
                        text.push_str(&format!("{i}.{piece}"));
                    }
                }
            }
            if dropped_from < pieces {
                dropped += 1;
            }
            if !text.is_empty() {
                want[usize::from(*stderr)].push(text);
            }
            log.extend_from_slice(&buf[..records.len()]);
            records.written(&mut buf, records.len());
            if records.wants_notice() {
                records.push_notice(&mut buf, &time);
                log.extend_from_slice(&buf[..records.len()]);
                records.written(&mut buf, records.len());
            }
        }
        prop_assert_eq!(records.total_dropped(), dropped);
        let mut got: [Vec<String>; 2] = [Vec::new(), Vec::new()];
        let mut open = [String::new(), String::new()];
        let mut noticed = 0;
        for record in std::str::from_utf8(&log).unwrap().lines() {
            let mut parts = record.splitn(4, ' ').skip(1);
            let (stream, tag, text) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            if let Some(n) = text.strip_prefix("stower: dropped log lines: ") {
                noticed += n.parse::<u64>().unwrap();
                continue;
            }
            let which = usize::from(stream == "stderr");
            open[which].push_str(text);
            if tag == "F" {
                got[which].push(std::mem::take(&mut open[which]));
            }
        }
        prop_assert_eq!(noticed, dropped);
        prop_assert_eq!(got, want);
    }
}
