use std::io::Write;

use super::*;

/// A log by hand, as the kernel's source has it.
fn log(entries: &[(u64, u64, u64, &[u8])]) -> File {
    let mut bytes = Vec::new();
    let mut block = |parts: &[&[u8]], length: usize| {
        let start = bytes.len();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.resize(start + length, 0);
    };
    let head = |numbers: [u64; 4]| numbers.map(u64::to_le_bytes).concat();
    block(&[&head([MAGIC, 1, entries.len() as u64, 512])], 512);
    for (sector, sectors, flags, data) in entries {
        if flags & flag::MARK != 0 {
            block(&[&head([0, 0, *flags, data.len() as u64]), data], 512);
        } else {
            block(&[&head([*sector, *sectors, *flags, 0])], 512);
            block(&[data], data.len());
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn entries_are_replayed_one_by_one() {
    let (first, second) = ([1; 1024], [2; 512]);
    let log = log(&[
        (1, 2, 0, &first),
        (0, 0, flag::FLUSH, b""),
        (0, 0, flag::MARK, b"+image:a"),
        (2, 1, flag::FUA | flag::METADATA, &second),
        (1, 1, flag::DISCARD, b""),
        (0, 0, flag::MARK, b"dm-log-writes-end"),
    ]);
    let log = Log::open(log).unwrap();
    let marks: Vec<_> = log.entries.iter().filter_map(|entry| entry.mark.as_deref()).collect();
    assert_eq!(marks, ["+image:a", "dm-log-writes-end"]);
    assert!(log.entries[3].has(flag::FUA) && !log.entries[3].has(flag::FLUSH));

    let disk = tempfile::tempfile().unwrap();
    disk.set_len(4 * 512).unwrap();
    let mut seen = Vec::new();
    for entry in &log.entries {
        log.replay(entry, &disk).unwrap();
        let mut bytes = [0; 4 * 512];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        seen.push([0, 1, 2, 3].map(|sector| bytes[sector * 512 + 511]));
    }
    let written = [0, 1, 1, 0];
    assert_eq!(seen, [written, written, written, [0, 1, 2, 0], [0, 0, 2, 0], [0, 0, 2, 0]]);
}

#[test]
fn what_is_no_log_is_refused() {
    let whole = log(&[(1, 2, 0, &[1; 1024])]);
    // A head that promises more than there is.
    whole.write_all_at(&[2], 16).unwrap();
    let refused = |file: &File| format!("{:#}", Log::open(file.try_clone().unwrap()).unwrap_err());
    assert!(refused(&whole).contains("entry 1 of 2"), "{}", refused(&whole));
    whole.write_all_at(&[9], 8).unwrap();
    assert!(refused(&whole).contains("version 9"), "{}", refused(&whole));
    whole.write_all_at(&[9], 0).unwrap();
    assert!(refused(&whole).contains("no log"), "{}", refused(&whole));
    let odd = log(&[(1, 2, 1 << 5, &[1; 1024])]);
    assert!(refused(&odd).contains("unknown flags"), "{}", refused(&odd));
    let long = log(&[(1, u64::MAX, 0, &[])]);
    assert!(refused(&long).contains("too long"), "{}", refused(&long));
}
