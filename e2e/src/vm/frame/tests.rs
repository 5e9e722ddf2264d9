use super::*;

#[test]
fn frames_come_back_as_they_went() {
    let mut wire = Vec::new();
    let contents: [(Kind, &[u8]); 3] = [(Kind::Hello, b"6.1"), (Kind::Data, &[0; 70_000]), (Kind::End, b"")];
    for (kind, content) in contents {
        write(&mut wire, kind, content).unwrap();
    }
    let mut from = wire.as_slice();
    for (kind, content) in contents {
        assert_eq!(read(&mut from).unwrap(), (kind, content.to_vec()));
    }
    assert_eq!(read(&mut from).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_no_frame_is_refused() {
    for bad in [&b"?\0\0\0\0"[..], b"o\xff\xff\xff\xff", b"login: "] {
        assert_eq!(read(&mut &*bad).unwrap_err().kind(), ErrorKind::InvalidData, "{bad:?}");
    }
    assert!(write(&mut Vec::new(), Kind::Data, &vec![0; LONGEST + 1]).is_err());
    assert!(number(b"abc").is_err());
    assert_eq!(number(b"\x01\0\0\0rest").unwrap(), (1, &b"rest"[..]));
}
