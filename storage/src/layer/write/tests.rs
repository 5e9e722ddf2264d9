use super::super::UnpackLimits;
use super::super::tar::Reader;
use super::*;

fn entry(path: &[u8], kind: Kind) -> Entry {
    let mtime = Time { seconds: 1_500_000_000, nanos: 0 };
    Entry {
        path: path.to_vec(),
        kind,
        size: 0,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: vec![],
        sparse: None,
    }
}

fn written(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.entry(entry).unwrap();
        writer.data(data).unwrap();
        assert_eq!(writer.left(), 0);
    }
    writer.finish().unwrap()
}

fn read(bytes: &[u8]) -> Vec<Entry> {
    let limits = UnpackLimits::default();
    let mut source = bytes;
    let mut reader = Reader::new(&mut source, &limits);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

/// What is written is what our strict reader reads, whatever it is.
#[test]
fn everything_is_read_back() {
    let long = |length: usize| vec![b'n'; length];
    let deep = [long(90), long(90)].join(&b'/');
    let mut all = vec![
        entry(b"plain", Kind::Regular),
        entry(&long(100), Kind::Regular),
        entry(&long(101), Kind::Regular),
        entry(&deep, Kind::Regular),
        entry(&[deep.clone(), long(100)].join(&b'/'), Kind::Regular),
        entry("gr\u{fc}n".as_bytes(), Kind::Regular),
        entry(b"bytes \xff\xfe", Kind::Regular),
        entry(&[long(200).as_slice(), b"\xff"].concat(), Kind::Regular),
        entry(b"new\nline", Kind::Regular),
        entry(b"link", Kind::Symlink(b"to".to_vec())),
        entry(b"long link", Kind::Symlink(long(300))),
        entry(b"text link", Kind::Symlink("\u{e9}".into())),
        entry(b"hard", Kind::Hardlink(b"plain".to_vec())),
        entry(b"char", Kind::Char(4095, (1 << 20) - 1)),
        entry(b"block", Kind::Block(8, 1)),
        entry(b"pipe", Kind::Fifo),
        entry(b"modes", Kind::Regular),
    ];
    all.last_mut().unwrap().mode = 0o6755;
    for (seconds, nanos) in [
        (0, 0),
        (0, 1),
        (-1, 0),
        (-1, 500_000_000),
        (-6, 750_000_000),
        (1, 999_999_999),
        (1, 100_000_000),
        (0o77_777_777_777, 0),
        (0o77_777_777_777 + 1, 0),
    ] {
        let mut one = entry(b"time", Kind::Regular);
        one.mtime = Time { seconds, nanos };
        all.push(one);
    }
    for id in [0o7_777_777, 0o7_777_777 + 1, u32::MAX - 1] {
        let mut one = entry(b"owner", Kind::Regular);
        (one.uid, one.gid) = (id, id);
        all.push(one);
    }
    let mut one = entry(b"attributes", Kind::Regular);
    one.xattrs = vec![
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 32, 0, 0, 0, 0, b'\n', b'=']),
        (b"user.empty".to_vec(), vec![]),
        // Its record is as long as makes its length one digit longer.
        (b"user.x".to_vec(), vec![b'x'; 73]),
        (b"user.y".to_vec(), vec![b'y'; 974]),
    ];
    all.push(one);
    let bytes = written(&all.iter().map(|entry| (entry.clone(), &[][..])).collect::<Vec<_>>());
    assert_eq!(read(&bytes), all);
    let dir = entry(b"dir", Kind::Directory);
    assert_eq!(read(&written(&[(dir, b"")]))[0].path, b"dir/");
    let dir = entry(&long(100), Kind::Directory);
    assert_eq!(read(&written(&[(dir, b"")]))[0].path.len(), 101);
}

#[test]
fn records_are_only_where_needed() {
    let simple =
        [entry(b"a", Kind::Regular), entry(&[vec![b'd'; 120], vec![b'n'; 90]].join(&b'/'), Kind::Regular)];
    for one in simple {
        assert_eq!(written(&[(one, b"")]).len(), 512 + 1024);
    }
    for size in [0u64, 1, 511, 512, 513] {
        let mut one = entry(b"a", Kind::Regular);
        one.size = size;
        let data = vec![1; usize::try_from(size).unwrap()];
        let bytes = written(&[(one.clone(), &data), (entry(b"b", Kind::Regular), b"")]);
        assert_eq!(read(&bytes).len(), 2);
        assert_eq!(read(&bytes)[0], one);
    }
}

#[test]
fn sizes_beyond_the_field() {
    let mut one = entry(b"big", Kind::Regular);
    one.size = OCTAL_11 + 1;
    let mut writer = Writer::new(Vec::new());
    writer.entry(&one).unwrap();
    assert_eq!(writer.left(), OCTAL_11 + 1);
    assert_eq!(
        read(&{
            let mut out = writer.out;
            // The reader gives the entry before it looks for its data.
            out.truncate(1536);
            let limits = UnpackLimits::default();
            let mut source = out.as_slice();
            assert_eq!(Reader::new(&mut source, &limits).next().unwrap().unwrap().size, OCTAL_11 + 1);
            Vec::new()
        }),
        []
    );
}

/// The bytes themselves, so that no change of the program changes a diff id unnoticed.
#[test]
fn bytes_stay_the_same() {
    let mut file = entry(b"etc/motd", Kind::Regular);
    file.size = 3;
    file.mtime.nanos = 5;
    file.xattrs = vec![(b"user.b".to_vec(), b"2".to_vec()), (b"user.a".to_vec(), b"1".to_vec())];
    let bytes = written(&[(entry(b"etc", Kind::Directory), b""), (file, b"hi\n")]);
    let digest = crate::digest::Digest::of(&bytes);
    assert_eq!(digest.to_string(), "sha256:0bcd444268e5c2704ab474596d30fb2181f82d9f47d647fa4479a040bb786ea2");
}
