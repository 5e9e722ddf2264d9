use super::*;

#[test]
fn a_table_is_written_as_it_is_read() {
    let table = [
        Target { start: 0, length: 8, kind: "linear".into(), line: "7:0 0".into() },
        Target { start: 8, length: 16, kind: "thin-pool".into(), line: "7:0 7:1 128 32 0".into() },
    ];
    let mut request = Request::new("name", READ_ONLY);
    for target in &table {
        request.push_target(target);
    }
    request.seal();
    // The kernel counts from the first target, the caller from each: so they agree only for the first two.
    assert_eq!(request.targets(), table);
    assert_eq!(request.flags(), READ_ONLY);
    assert_eq!(number32(&request.sent, DATA_SIZE) as usize, request.sent.len());
    assert_eq!(text(&request.sent[NAME..]), "name");
}

fn listed(entries: &[(u64, &str)]) -> Vec<String> {
    let mut request = Request::new("", 0);
    for (index, (device, name)) in entries.iter().enumerate() {
        let length = (12 + name.len() + 1).next_multiple_of(8);
        let next = if index + 1 == entries.len() { 0 } else { u32::try_from(length).unwrap() };
        let mut entry = [device.to_ne_bytes().as_slice(), &next.to_ne_bytes(), name.as_bytes()].concat();
        entry.resize(length, 0);
        request.data.extend(entry);
    }
    request.seal();
    request.names()
}

#[test]
fn lists_of_devices() {
    assert_eq!(listed(&[(0, "")]), Vec::<String>::new());
    assert_eq!(listed(&[(5, "one"), (6, "another-name")]), ["one", "another-name"]);
}

#[test]
fn answers_that_lie_end() {
    let mut request = Request::new("", 0);
    request.reserve(64);
    request.targets = u32::MAX;
    request.seal();
    assert!(request.targets().len() <= 2);
    request.sent[DATA_START..DATA_START + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(request.targets().is_empty() && request.names().is_empty());
}

#[test]
fn a_request_that_is_shorter_than_it_says_is_not_sent() {
    let file = File::open("/dev/null").unwrap();
    assert_eq!(ioctl::call(&file, 0, &mut [0; 400]), Err(Errno::INVAL));
    assert_eq!(ioctl::call(&file, 0, &mut [0; 16]), Err(Errno::INVAL));
}
